from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from provisioner.adapters.lab.directory import WORDS, LabDirectory, find_lab, read_lab
from provisioner.domain.lab.lab import Lab
from provisioner.domain.values.problem import ProblemError
from tests.adapters.lab.sshkeys import A_PRIVATE_KEY, AN_ED25519, AN_RSA

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
def test_every_mistake_is_told_with_its_place(case: dict[str, Any], lab_with: Callable[..., Path]) -> None:
    path = lab_with(case["lab"])
    expected = [text.replace("$", str(path / "lab.yml")).replace("%", str(path)) for text in case["says"]]
    assert [problem.what for problem in refused(path).problems] == expected


def test_there_are_enough_cases() -> None:
    assert len(CASES) >= 15


def test_every_mistake_says_what_to_do(lab_with: Callable[..., Path]) -> None:
    for case in CASES:
        assert all(problem.fix and problem.why for problem in refused(lab_with(case["lab"])).problems), case["name"]


def test_a_good_lab(lab_with: Callable[..., Path]) -> None:
    path = lab_with(GOOD)
    found = read_lab(str(path))
    assert found == LabDirectory(path, Lab.model_validate(yaml.safe_load(GOOD)), path / "hosts.yml")
    assert found.lock == path / "lab.lock"


def test_not_utf8(lab_with: Callable[..., Path]) -> None:
    path = lab_with(GOOD)
    (path / "lab.yml").write_bytes(b"name: demo\n# \xc4\xe3\n")  # GBK
    assert [problem.what for problem in refused(path).problems] == [f"{path}/lab.yml:2:3: not UTF-8 text"]


def test_a_byte_order_mark_is_no_mistake(lab_with: Callable[..., Path]) -> None:
    path = lab_with("\ufeff" + GOOD)
    assert read_lab(str(path)).lab.name == "demo"


KEYS = GOOD + "seat: {authorized_keys: [a.pub, b.pub]}\n"


def test_keys_keep_their_comments_and_come_once(lab_with: Callable[..., Path]) -> None:
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
    ],
)
def test_what_is_no_public_key(lab_with: Callable[..., Path], text: str, code: str, line: str) -> None:
    path = lab_with(KEYS, **{"a.pub": AN_RSA, "b.pub": text})
    (problem,) = refused(path).problems
    assert problem.code == code
    assert problem.what.startswith(f"{path}/lab.yml:4:33: {path}/b.pub{line}")


def test_a_certificate_is_read_and_a_key_beside_it_refused(lab_with: Callable[..., Path]) -> None:
    pem = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    with_ca = GOOD.replace('"r:5000"', '"r:5000", ca: ca.pem')
    assert read_lab(str(lab_with(with_ca, **{"ca.pem": f"words before it\n{pem}"}))).registry_ca == pem
    assert refused(lab_with(with_ca, **{"ca.pem": pem + A_PRIVATE_KEY})).problems[0].code == "private_key"
    assert refused(lab_with(with_ca, **{"ca.pem": "-----BEGIN CERTIFICATE"})).problems[0].code == "not_a_certificate"


@pytest.mark.parametrize("name", ["hosts.yaml", "hosts.ini", "hosts", "inventory", "inventory.sh"])
def test_any_form_of_inventory(lab_with: Callable[..., Path], name: str) -> None:
    path = lab_with(GOOD)
    (path / "hosts.yml").rename(path / name)
    (path / f"{name}.bak").touch()
    assert read_lab(str(path)).inventory == path / name


def test_no_inventory_and_two_of_them(lab_with: Callable[..., Path]) -> None:
    path = lab_with(GOOD, **{"hosts.ini": "n1\n"})
    assert refused(path).problems[0].what == f"{path}: more than one inventory: hosts.yml, hosts.ini"
    (path / "hosts.yml").unlink()
    (path / "hosts.ini").unlink()
    assert refused(path).problems[0].code == "no_inventory"


def test_where_a_lab_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "inventories" / "demo").mkdir(parents=True)
    (tmp_path / "inventories" / "demo" / "lab.yml").write_text(GOOD)
    assert find_lab("demo") == Path("inventories/demo")
    (tmp_path / "demo").mkdir()
    assert find_lab("demo") == Path("inventories/demo"), "a directory of that name that is no lab is passed over"
    (tmp_path / "demo" / "lab.yml").write_text(GOOD)
    assert find_lab("demo") == Path("demo")
    assert find_lab("./inventories/demo") == Path("inventories/demo")


def test_no_such_lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "inventories" / "demo").mkdir(parents=True)
    (tmp_path / "inventories" / "demo" / "lab.yml").touch()
    (problem,) = refused(Path("dmeo")).problems
    assert problem.what == 'there is no lab dmeo: looked at ./dmeo and ./inventories/dmeo; did you mean "demo"?'
    assert problem.fix == "provision init dmeo"


def test_a_directory_without_a_wish(tmp_path: Path) -> None:
    (problem,) = refused(tmp_path).problems
    assert (problem.what, problem.fix) == (
        f"{tmp_path}/lab.yml: there is no such file",
        f"provision init {tmp_path}",
    )


def test_every_pattern_of_the_wish_has_words() -> None:
    """A pattern is no message: whoever meets one in lab.yml is told in words what may stand there."""
    assert _patterned(Lab) - WORDS.keys() == set()


def _patterned(model: Any) -> set[str]:
    found = set()
    for name, field in model.model_fields.items():
        if "pattern=" in repr(field):
            found.add(field.alias or name)
        for below in (field.annotation, *get_args(field.annotation)):
            if hasattr(below, "model_fields"):
                found |= _patterned(below)
    return found


def test_the_key_of_a_source_of_packages_is_text_and_public(lab_with: Callable[..., Path]) -> None:
    key = "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nmDMEaA==\n=abcd\n-----END PGP PUBLIC KEY BLOCK-----\n"
    wish = GOOD + 'prepare: {docker: {uri: "https://m.example/docker-ce/linux", key: d.asc}}\n'
    assert read_lab(str(lab_with(wish, **{"d.asc": key}))).package_keys == {"docker": key}
    secret = key.replace("PUBLIC", "PRIVATE")
    assert [p.code for p in refused(lab_with(wish, **{"d.asc": secret})).problems] == ["private_key"]
    assert [p.code for p in refused(lab_with(wish, **{"d.asc": "binary"})).problems] == ["not_a_package_key"]


def test_the_authority_of_a_registry_that_was_set_up_is_found_without_a_word(lab_with: Callable[..., Path]) -> None:
    pem = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    managed = GOOD.replace('"r:5000"', '"r:5000", managed: true')
    assert read_lab(str(lab_with(managed))).lab.registry.ca is None
    found = read_lab(str(lab_with(managed, **{"registry-ca.pem": pem})))
    assert (found.lab.registry.ca, found.registry_ca) == ("registry-ca.pem", pem)
    assert read_lab(str(lab_with(GOOD, **{"registry-ca.pem": pem}))).lab.registry.ca is None, "another's registry"
    broken = lab_with(managed, **{"registry-ca.pem": "half a file"})
    assert [p.code for p in refused(broken).problems] == ["not_a_certificate"]
