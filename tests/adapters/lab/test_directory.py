import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

import pytest
import yaml
from hypothesis import given

from provisioner.adapters.lab.directory import EXPECTED, LabDirectory, find_lab, read_lab
from provisioner.adapters.lab.lockfile import lock_text
from provisioner.adapters.lab.source_location import read_json
from provisioner.adapters.lab.validation import validate_document
from provisioner.domain.lab.lab import Lab
from provisioner.domain.values.problem import ProblemError
from tests.adapters.ansible.lies import with_lies
from tests.adapters.lab.sshkeys import A_PRIVATE_KEY, AN_ED25519, AN_RSA
from tests.builders import a_lock_of, a_locked_image

GOOD = 'name: demo\nmirror: {address: "m:5000"}\nregistry: {address: "r:5000"}\n'
CASES: list[dict[str, Any]] = yaml.safe_load((Path(__file__).with_name("broken_labs.yml")).read_text())


@pytest.fixture
def lab_with(tmp_path: Path) -> Callable[..., Path]:
    def write(lab: str, **files: str) -> Path:
        for name, text in {"lab.yml": lab, "hosts.yml": "all: {}\n"}.items():
            (tmp_path / name).write_text(text)
        for name, text in files.items():
            (tmp_path / name).write_text(text)
        return tmp_path

    return write


def refused(path: Path) -> ProblemError:
    with pytest.raises(ProblemError) as refusal:
        read_lab(str(path))
    assert refusal.value.ending == "usage"
    return refusal.value


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case["name"]))
def test_every_mistake_is_reported_with_its_place(case: dict[str, Any], lab_with: Callable[..., Path]) -> None:
    path = lab_with(case["lab"])
    expected = [text.replace("$", str(path / "lab.yml")).replace("%", str(path)) for text in case["problems"]]
    assert [problem.what for problem in refused(path).problems] == expected


def test_there_are_at_least_fifteen_broken_labs() -> None:
    assert len(CASES) >= 15


def test_every_mistake_has_a_reason_and_a_fix(lab_with: Callable[..., Path]) -> None:
    for case in CASES:
        assert all(problem.fix and problem.why for problem in refused(lab_with(case["lab"])).problems), case["name"]


def test_a_valid_lab_is_read(lab_with: Callable[..., Path]) -> None:
    path = lab_with(GOOD)
    found = read_lab(str(path))
    assert found == LabDirectory(path, Lab.model_validate(yaml.safe_load(GOOD)), path / "hosts.yml")
    assert found.lock == path / "lab.lock"


def test_a_lab_file_that_is_not_utf8_is_refused_with_its_place(lab_with: Callable[..., Path]) -> None:
    path = lab_with(GOOD)
    (path / "lab.yml").write_bytes(b"name: demo\n# \xc4\xe3\n")  # GBK
    assert [problem.what for problem in refused(path).problems] == [f"{path}/lab.yml:2:3: not UTF-8 text"]


def test_a_byte_order_mark_is_accepted(lab_with: Callable[..., Path]) -> None:
    path = lab_with("\ufeff" + GOOD)
    assert read_lab(str(path)).lab.name == "demo"


KEYS = GOOD + "seat: {authorized_keys: [a.pub, b.pub]}\n"


def test_keys_keep_their_comments_and_duplicates_are_dropped(lab_with: Callable[..., Path]) -> None:
    path = lab_with(KEYS, **{"a.pub": f"# the lab\n{AN_ED25519}\r\n\n", "b.pub": f"{AN_RSA}\n{AN_ED25519}\n"})
    assert read_lab(str(path)).keys == (AN_ED25519, AN_RSA)


@pytest.mark.parametrize(
    ("text", "code", "line"),
    [
        (A_PRIVATE_KEY, "private_key", ""),
        (f"{AN_ED25519}\n{A_PRIVATE_KEY}", "private_key", ""),
        ("", "not_a_public_key", ":1"),
        ("ssh-ed25519", "not_a_public_key", ":1"),
        (f"{AN_RSA}\nssh-ed25519 {AN_RSA.split()[1]} ann", "not_a_public_key", ":2"),
        (AN_ED25519.replace("ssh-ed25519", "ssh-dss"), "not_a_public_key", ":1"),
        (AN_ED25519.replace("ssh-ed25519 AAAA", "ssh-ed25519 AAA"), "not_a_public_key", ":1"),
        (f'command="/bin/sh" {AN_ED25519}', "not_a_public_key", ":1"),
        (f"{AN_ED25519} \x1b[31m", "not_a_public_key", ":1"),
        (f"{AN_ED25519} \x9b31m", "not_a_public_key", ":1"),
        (" ".join([*AN_ED25519.split()[:1], AN_ED25519.split()[1][:28]]), "not_a_public_key", ":1"),
    ],
)
def test_a_file_without_valid_public_keys_is_refused(
    lab_with: Callable[..., Path], text: str, code: str, line: str
) -> None:
    path = lab_with(KEYS, **{"a.pub": AN_RSA, "b.pub": text})
    (problem,) = refused(path).problems
    assert problem.code == code
    assert problem.what.startswith(f"{path}/lab.yml:4:33: {path}/b.pub{line}")


def test_a_certificate_is_read_and_a_private_key_beside_it_is_refused(lab_with: Callable[..., Path]) -> None:
    pem = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    with_ca = GOOD.replace('"r:5000"', '"r:5000", ca: ca.pem')
    assert read_lab(str(lab_with(with_ca, **{"ca.pem": f"text before it\n{pem}"}))).registry_ca == pem
    assert refused(lab_with(with_ca, **{"ca.pem": pem + A_PRIVATE_KEY})).problems[0].code == "private_key"
    assert refused(lab_with(with_ca, **{"ca.pem": "-----BEGIN CERTIFICATE"})).problems[0].code == "not_a_certificate"


@pytest.mark.parametrize("name", ["hosts.yaml", "hosts.ini", "hosts", "hosts.py", "inventory", "inventory.sh"])
def test_every_form_of_inventory_is_found(lab_with: Callable[..., Path], name: str) -> None:
    path = lab_with(GOOD)
    (path / "hosts.yml").rename(path / name)
    (path / name).chmod(0o755)
    for other in ("bak", "old", "save", "dpkg-old", "rpmsave", "sample", "j2"):
        (path / f"{name}.{other}").touch()
    for other in ("inventory.md", "hosts.txt", "inventory.xlsx", "inventory.pdf", "hosts.allow", "inventory_plugin.py"):
        (path / other).touch()
    (path / "inventory_plugins").mkdir()  # Ansible's own folder
    assert read_lab(str(path)).inventory == path / name


def test_a_lab_without_or_with_two_inventories_is_refused(lab_with: Callable[..., Path]) -> None:
    path = lab_with(GOOD, **{"hosts.ini": "n1\n"})
    assert refused(path).problems[0].what == f"{path}: more than one inventory: hosts.yml, hosts.ini"
    (path / "hosts.yml").unlink()
    (path / "hosts.ini").unlink()
    assert refused(path).problems[0].code == "no_inventory"
    (path / "hosts.py").touch()  # it may not be run, and Ansible says so
    assert read_lab(str(path)).inventory == path / "hosts.py"


def test_a_lab_is_found_by_name_or_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "inventories" / "demo").mkdir(parents=True)
    (tmp_path / "inventories" / "demo" / "lab.yml").write_text(GOOD)
    assert find_lab("demo") == Path("inventories/demo")
    (tmp_path / "demo").mkdir()
    assert find_lab("demo") == Path("inventories/demo"), "a directory of that name without a lab.yml is skipped"
    (tmp_path / "demo" / "lab.yml").write_text(GOOD)
    assert find_lab("demo") == Path("demo")
    assert find_lab("./inventories/demo") == Path("inventories/demo")


def test_an_unknown_lab_is_refused_with_the_closest_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "inventories" / "demo").mkdir(parents=True)
    (tmp_path / "inventories" / "demo" / "lab.yml").touch()
    (problem,) = refused(Path("dmeo")).problems
    assert problem.what == 'there is no lab dmeo: looked at ./dmeo and ./inventories/dmeo; did you mean "demo"?'
    assert problem.fix == "provision init dmeo"
    (problem,) = refused(Path("my lab")).problems
    assert problem.fix == "provision init 'my lab'"
    (problem,) = refused(Path("inventories/demo/lab.yml")).problems
    assert (problem.what, problem.fix) == ("inventories/demo/lab.yml is a file", "give the directory: inventories/demo")


def test_a_directory_without_lab_yml_is_refused(tmp_path: Path) -> None:
    (problem,) = refused(tmp_path).problems
    assert (problem.what, problem.fix) == (
        f"{tmp_path}/lab.yml: there is no such file",
        f"provision init {tmp_path}",
    )


def test_every_field_with_a_pattern_has_an_expected_value_in_words() -> None:
    """A message must not show a regular expression: it says in words what the field may hold."""
    assert _patterned(Lab) - EXPECTED.keys() == set()


def _patterned(model: Any) -> set[str]:
    found = set()
    for name, field in model.model_fields.items():
        if "pattern=" in repr(field):
            found.add(field.alias or name)
        for below in (field.annotation, *get_args(field.annotation)):
            if hasattr(below, "model_fields"):
                found |= _patterned(below)
    return found


def test_a_package_key_must_be_public_and_ascii_armoured(lab_with: Callable[..., Path]) -> None:
    key = "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nmDMEaA==\n=abcd\n-----END PGP PUBLIC KEY BLOCK-----\n"
    source = '{uri: "https://m.example/docker-ce/linux", key: d.asc}'
    lab = GOOD + f"prepare: {{docker: {source}, nvidia: [{source}, {source.replace('d.asc', 'n.asc')}]}}\n"
    assert read_lab(str(lab_with(lab, **{"d.asc": key, "n.asc": key}))).package_keys == {"d.asc": key, "n.asc": key}
    lab = GOOD + f"prepare: {{docker: {source}}}\n"
    secret = key.replace("PUBLIC", "PRIVATE")
    assert [p.code for p in refused(lab_with(lab, **{"d.asc": secret})).problems] == ["private_key"]
    assert [p.code for p in refused(lab_with(lab, **{"d.asc": "binary"})).problems] == ["not_a_package_key"]


@pytest.mark.parametrize("indent", ["    ", "    - "])
def test_a_mistake_in_one_or_several_package_sources_has_its_line(lab_with: Callable[..., Path], indent: str) -> None:
    lab = f"{GOOD}prepare:\n  nvidia:\n{indent}uri: ftp://m.example/x\n{' ' * len(indent)}key: n.asc\n"
    key = "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nmDMEaA==\n=abcd\n-----END PGP PUBLIC KEY BLOCK-----\n"
    (found,) = refused(lab_with(lab, **{"n.asc": key})).problems
    line, column = lab[: lab.index("ftp:")].count("\n") + 1, len(f"{indent}uri: ") + 1
    assert f"lab.yml:{line}:{column}: " in found.what


def test_the_ca_of_a_managed_registry_is_found_without_a_setting(lab_with: Callable[..., Path]) -> None:
    pem = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    managed = GOOD.replace('"r:5000"', '"r:5000", managed: true')
    assert read_lab(str(lab_with(managed))).lab.registry.ca is None
    found = read_lab(str(lab_with(managed, **{"registry-ca.pem": pem})))
    assert (found.lab.registry.ca, found.registry_ca) == ("registry-ca.pem", pem)
    assert read_lab(str(lab_with(GOOD, **{"registry-ca.pem": pem}))).lab.registry.ca is None, (
        "the registry is not managed"
    )
    broken = lab_with(managed, **{"registry-ca.pem": "half a file"})
    assert [p.code for p in refused(broken).problems] == ["not_a_certificate"]


FULL = Lab.model_validate(yaml.safe_load(GOOD)).model_dump(mode="json")


@given(with_lies(FULL))
def test_every_lab_yml_with_a_lie_is_a_lab_or_is_refused(lab: Any) -> None:
    text = json.dumps(lab)  # JSON is YAML
    with TemporaryDirectory() as folder:
        for name, content in {"lab.yml": text, "hosts.yml": "all: {}\n"}.items():
            Path(folder, name).write_text(content, errors="surrogatepass")
        with suppress(ProblemError):
            assert read_lab(folder).lab.name


def test_half_of_a_surrogate_pair_in_json_is_refused() -> None:
    document = read_json("f", json.dumps(FULL | {"rollout": {"waves": ["\ud800"]}}))
    with pytest.raises(ProblemError, match="bad_value"):
        validate_document(document, Lab, EXPECTED)


def test_rows_may_name_environments_of_the_lab_and_those_that_the_lock_has_kept(lab_with: Callable[..., Path]) -> None:
    text = GOOD + "people: {roster: roster.csv}\nenvironments: {nlp: {}}\n"
    text += "groups: {student: {environments: [default, nlp]}}\n"
    path = lab_with(text, **{"roster.csv": "id,environment\nann,nlp\nbob,2026s\ncleo,old\n"})
    lock = a_lock_of(default=a_locked_image(), **{"2026s": a_locked_image(), "old": a_locked_image()})
    kept = lock.environments["2026s"].model_copy(update={"kept_from": "default"})
    lock = lock.model_copy(update={"environments": {**lock.environments, "2026s": kept}})
    (path / "lab.lock").write_text(lock_text(lock))
    (problem,) = refused(path).problems
    assert problem.what.endswith('roster.csv:4:2: there is no environment "old"')
    (path / "roster.csv").write_text("id,environment\nann,nlp\nbob,2026s\n")
    assert [person.environment for person in read_lab(str(path)).people] == ["nlp", "2026s"]
    (path / "lab.lock").write_text("{")
    assert "unknown_environment" in [problem.code for problem in refused(path).problems]
