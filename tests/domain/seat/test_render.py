import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from provisioner.domain.lab.lock import LockedImage
from provisioner.domain.seat.render import STATIC_FILES, fill, render
from provisioner.domain.seat.seat import Seat
from provisioner.domain.values.problem import ProblemError
from tests.builders import a_locked_image
from tests.domain.seats import KEY, TEMPLATES, a_seat

HERE = Path(__file__).parents[1]
HOSTILE: list[str] = json.loads((HERE / "cases/hostile.json").read_text())
SEAT_FIELDS = ["name", "lab", "node", "user", "home", "gpu_driver"]
IMAGE_FIELDS = ["reference", "base", "torch"]


# Of these fields the file contains a name in which unusual characters are replaced.
SANITIZED = ["node", "torch", "base"]


def leaves(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(item, (*path, key))
    else:
        yield path, value


def with_text(field: str, text: str) -> tuple[Seat, LockedImage]:
    """Return a seat and an image with `text` in one field."""
    seat, image = a_seat(), a_locked_image()
    if field in IMAGE_FIELDS:
        return seat, image.model_copy(update={field: text})
    if field in SEAT_FIELDS:
        return seat.model_copy(update={field: text}), image
    changes: dict[str, Any] = {
        "gpu": {"gpus": (text,)},
        "bind": {"binds": {"ssh": text, "jupyter": "127.0.0.1"}},
        "key": {"authorized_keys": (text,)},
        "comment": {"authorized_keys": (f"{KEY} {text}",)},
        "memory": {"limits": seat.limits.model_copy(update={"memory": text})},
        "shm": {"limits": seat.limits.model_copy(update={"shm": text})},
    }
    return seat.model_copy(update=changes[field]), image


@cache
def leaves_of(text: str) -> dict[tuple[str | int, ...], Any]:
    """Return the values of a text by the parser of PyYAML: the product reads and writes by libyaml."""
    return dict(leaves(yaml.safe_load(text)))


def changed_values(text: str) -> list[Any]:
    """Return the values of a compose file that differ from the harmless one, whose structure it must have.

    Where it has as many lines, only those that differ are read, each by itself: PyYAML takes long for a whole file.
    """
    lines, harmless = text.split("\n"), HARMLESS["compose.yaml"].split("\n")
    if len(lines) != len(harmless):
        found = leaves_of(text)
        assert set(found) == set(HARMLESS_LEAVES)
        return [value for path, value in found.items() if HARMLESS_LEAVES.get(path) != value]
    differ = [pair for pair in zip(lines, harmless, strict=True) if pair[0] != pair[1]]
    for line, before in differ:
        assert leaves_of(line).keys() == leaves_of(before).keys()
        assert indentation(line) == indentation(before)
    return [value for line, _ in differ for value in leaves_of(line).values()]


def indentation(line: str) -> int:
    return len(line) - len(line.lstrip(" "))


# Fields that accept any printable text; the others must match patterns.
FREE = ["lab", "reference", "comment"]
FIELDS = [*SEAT_FIELDS, *IMAGE_FIELDS, "gpu", "bind", "key", "comment", "memory", "shm"]
HARMLESS = render(a_seat(), a_locked_image(), TEMPLATES).files
HARMLESS_LEAVES = leaves_of(HARMLESS["compose.yaml"])


def assert_text_stays_text(field: str, text: str) -> None:
    """Assert that the text is refused, or appears in the files only as a value; nothing else differs."""
    seat, image = with_text(field, text)
    try:
        files = render(seat, image, TEMPLATES).files
    except ProblemError:
        return
    changed = changed_values(files["compose.yaml"])
    if field in SANITIZED:
        assert all(re.fullmatch("[A-Za-z0-9/.+-]+", value) for value in changed)
    else:
        assert all(text in value.replace("$$", "$") for value in changed)
    assert len(files["sshd_config"].splitlines()) == len(HARMLESS["sshd_config"].splitlines())
    assert files["authorized_keys"].count("\n") == 1
    assert "$" not in "".join(changed).replace("$$", "")


@pytest.mark.parametrize("field", FIELDS)
def test_hostile_text_is_refused_or_stays_text(field: str) -> None:
    """A field with a pattern is tried with every sixth text, each with others."""
    for text in HOSTILE if field in FREE else HOSTILE[FIELDS.index(field) % 6 :: 6]:
        assert_text_stays_text(field, text)


@given(st.sampled_from(FIELDS), st.text(max_size=20))
def test_any_text_is_refused_or_stays_text(field: str, text: str) -> None:
    assert_text_stays_text(field, text)


@pytest.mark.parametrize("text", ["李雷", "😀", "$(id)", "${HOME}", "no", "22:22", "{{ seat }}", "a" * 300])
def test_harmless_text_is_accepted(text: str) -> None:
    image = a_locked_image().model_copy(update={"reference": text})
    files = render(a_seat(authorized_keys=(f"{KEY} {text}",)), image, TEMPLATES).files
    labels = yaml.safe_load(files["compose.yaml"])["services"]["ssh"]["labels"]
    assert labels["provisioner.image"] == text.replace("$", "$$")
    assert files["authorized_keys"] == f"{KEY} {text}\n"


@given(st.recursive(st.text() | st.integers() | st.booleans() | st.none(), lambda inner: st.lists(inner, max_size=3)))
def test_value_in_a_template_is_read_back_unchanged(value: Any) -> None:
    text = fill("value: {{ value }}\n", {"value": value})
    assert json.dumps(yaml.safe_load(text)["value"]).replace("$$", "$") == json.dumps(value).replace("$$", "$")


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"uid": 0}, "services.jupyter.user"),
        ({"gid": -1}, "services.jupyter.user"),
        ({"gid": 0}, "services.jupyter.user"),
        ({"uid": 2**31 - 1}, "services.jupyter.user"),
        ({"gid": 10**11}, "services.jupyter.user"),
        ({"home": "/"}, "services.jupyter.volumes.0.source"),
        ({"home": "/root"}, "services.jupyter.volumes.0.source"),
        ({"home": "/srv/../etc"}, "services.jupyter.volumes.0.source"),
        ({"home": "/var/run/docker.sock"}, "services.jupyter.volumes.0.source"),
        ({"home": "/var/lib/docker"}, "services.jupyter.volumes.0.source"),
        ({"binds": {"ssh": "0.0.0.0", "jupyter": "127.0.0.1"}}, "services.ssh.ports.0.host_ip"),
        ({"gpus": ("all",)}, "services.ssh.deploy.resources.reservations.devices.0.device_ids.0"),
        ({"ports": {"ssh": 22, "jupyter": 22001}}, "services.ssh.ports.0.published"),
    ],
)
def test_forbidden_seat_is_refused_at_its_path(change: dict[str, Any], where: str) -> None:
    with pytest.raises(ProblemError) as refused:
        render(a_seat(**change), a_locked_image(), TEMPLATES)
    assert any(problem.what.startswith(where) for problem in refused.value.problems)
    assert {problem.code for problem in refused.value.problems} == {"compose_refused"}


PRIVATE = "-----BEGIN OPENSSH PRIVATE KEY-----"


@pytest.mark.parametrize(
    "key", ["", "# a comment", PRIVATE, f"{KEY}\n{KEY}", f'command="a\nb" {KEY}', f"{KEY} a\u2028b"]
)
def test_invalid_public_key_is_refused(key: str) -> None:
    with pytest.raises(ProblemError) as refused:
        render(a_seat(authorized_keys=(f"{KEY} x", key)), a_locked_image(), TEMPLATES)
    assert [problem.code for problem in refused.value.problems] == ["bad_public_key"]


@pytest.mark.parametrize("key", [KEY, f"{KEY} ", f'from="10.0.0.0/8",restrict,pty {KEY} li lei'])
def test_public_key_may_have_options_and_a_comment(key: str) -> None:
    assert render(a_seat(authorized_keys=(key,)), a_locked_image(), TEMPLATES).files["authorized_keys"] == f"{key}\n"


@pytest.mark.parametrize("name", ["compose.yaml", "sshd_config", "authorized_keys", "provision-url"])
def test_rendered_files_equal_the_golden_files(name: str) -> None:
    assert HARMLESS[name] == (HERE / "golden" / name).read_text()


def test_bundle_contains_every_mounted_file_except_those_of_the_node() -> None:
    project = yaml.safe_load(HARMLESS["compose.yaml"])
    mounts = [mount["source"] for service in project["services"].values() for mount in service["volumes"]]
    here = {source[2:] for source in mounts if source.startswith("./")}
    assert here - {"passwd", "group"} == set(HARMLESS) - {"compose.yaml", "gpu_check.py"}
    assert all(HARMLESS[name] == TEMPLATES[name] for name in STATIC_FILES)
    assert HARMLESS["verify_keys"] == ""


@pytest.mark.parametrize("user", ["li.lei", "Wei", "_svc", "a-b_c.d", "2024012345", "0"])
def test_common_user_names_are_accepted(user: str) -> None:
    files = render(a_seat(user=user, home=f"/export/home/{user}@campus"), a_locked_image(), TEMPLATES).files
    assert f'AllowUsers "{user}"\n' in files["sshd_config"]
    services = yaml.safe_load(files["compose.yaml"])["services"]
    assert {service["environment"]["HOME"] for service in services.values()} == {f"/home/{user}"}


@pytest.mark.parametrize(("uid", "gid"), [(1, 1), (70000, 70000), (1_200_400_123, 1_200_400_513), (2**31 - 2,) * 2])
def test_account_of_a_directory_service_is_accepted(uid: int, gid: int) -> None:
    files = render(a_seat(uid=uid, gid=gid), a_locked_image(), TEMPLATES).files
    services = yaml.safe_load(files["compose.yaml"])["services"]
    assert {service["user"] for service in services.values()} == {f"{uid}:{gid}"}


@pytest.mark.parametrize(
    "user", ["", "1*", "1@h", "a*", "a?", "!a", "a b", 'a"b', "a@host", "-a", ".", "..", "../a", "a/b", "a\n", "李"]
)
def test_user_name_with_a_meaning_for_sshd_is_refused(user: str) -> None:
    with pytest.raises(ProblemError, match="compose_refused"):
        render(a_seat(user=user), a_locked_image(), TEMPLATES)


def environments(seat: Seat) -> list[dict[str, str]]:
    files = render(seat, a_locked_image(), TEMPLATES).files
    return [service["environment"] for service in yaml.safe_load(files["compose.yaml"])["services"].values()]


@pytest.mark.parametrize(
    ("change", "visible"),
    [({}, None), ({"gpu_driver": "cdi"}, "void"), ({"gpus": ()}, "void"), ({"gpus": (), "gpu_driver": "cdi"}, "void")],
)
def test_visible_devices_hides_gpus_of_the_default_runtime(change: dict[str, Any], visible: str | None) -> None:
    assert [found.get("NVIDIA_VISIBLE_DEVICES") for found in environments(a_seat(**change))] == [visible, visible]


def test_user_packages_have_one_folder_for_each_base_image() -> None:
    first, rebuilt = a_locked_image(), a_locked_image().model_copy(update={"lab": a_locked_image("other:1").lab})
    other = a_locked_image("other:1")
    bases = [render(a_seat(), image, TEMPLATES).files["compose.yaml"] for image in (first, rebuilt, other)]
    found = [yaml.safe_load(text)["services"]["ssh"]["environment"]["PYTHONUSERBASE"] for text in bases]
    assert found[0] == found[1] != found[2]
    assert found[0].startswith("/home/student/.provisioner/python/2.10.0-")


def test_older_engine_gets_no_start_interval() -> None:
    assert "start_interval" in HARMLESS["compose.yaml"]
    files = render(a_seat(start_interval=False), a_locked_image(), TEMPLATES).files
    assert "start_interval" not in files["compose.yaml"]


@pytest.mark.parametrize(
    ("template", "what"),
    [
        ("name: {{ seat.nmae }}\n", "no attribute 'nmae'"),
        ("{% for x %}", "line 1: "),
        ("name: {{ seat.__class__ }}", "'__class__'"),
        ("name: {{ ''.__class__.__mro__ }}", "'__class__'"),
        ("{% include '/etc/passwd' %}", "no loader"),
        ("{{ lookup('pipe', 'id') }}", "'lookup' is undefined"),
        ("{{ range(10**9) }}", "too big"),
        ("{{ 1 // 0 }}", "division"),
        ("{{ seat.update({}) }}", "attribute 'update'"),
        ("{{ range }}", "not JSON serializable"),
    ],
)
def test_invalid_template_is_reported(template: str, what: str) -> None:
    with pytest.raises(ProblemError) as refused:
        render(a_seat(), a_locked_image(), TEMPLATES | {"compose.yaml.j2": template})
    (problem,) = refused.value.problems
    assert problem.code == "bad_template"
    assert what in problem.what


def test_template_of_a_lab_may_add_variables() -> None:
    shipped = TEMPLATES["compose.yaml.j2"]
    own = shipped.replace("SHELL: /bin/bash", 'SHELL: /bin/zsh\n      HF_ENDPOINT: "https://hf-mirror.com/$$x"')
    project = yaml.safe_load(
        render(a_seat(), a_locked_image(), {**TEMPLATES, "compose.yaml.j2": own}).files["compose.yaml"]
    )
    assert project["services"]["jupyter"]["environment"]["HF_ENDPOINT"] == "https://hf-mirror.com/$$x"


@pytest.mark.parametrize("requirements", ["", "ab" * 32])
def test_jupyterlab_finds_the_extensions_of_a_course(requirements: str) -> None:
    image = a_locked_image().model_copy(update={"requirements": requirements})
    text = render(a_seat(), image, TEMPLATES).files["jupyter_server_config.py"]
    assert ("/opt/provisioner/course/share/jupyter/labextensions" in text) is bool(requirements)
