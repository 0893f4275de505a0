"""What lab.yml sets inside is what the tools read there, and any setting of a student wins."""

import json
import os
import socket
import subprocess
import sys
import tomllib
from configparser import RawConfigParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from provisioner.domain.lab.inside import Inside
from provisioner.domain.lab.lock import LockedImage
from provisioner.domain.seat import compose_text
from provisioner.domain.seat.inside import (
    INSIDE_FILES,
    QUESTIONS_FILE,
    extra_lines,
    inside_files,
    inside_variables,
    questions_text,
)
from provisioner.domain.seat.options import SeatOptions
from provisioner.domain.seat.proof import prove
from provisioner.domain.seat.render import render
from provisioner.domain.seat.seat import Seat
from provisioner.domain.values.problem import ProblemError
from tests.builders import a_locked_image
from tests.domain.seats import DOCUMENTS, TEMPLATES, a_seat

PLACES = r"[a-z0-9]{1,8}(\.example)?(:[1-9][0-9]{0,3})?"
URLS = st.from_regex(rf"https?://{PLACES}(/[A-Za-z0-9%!$&()*+,;=:@._~-]{{1,12}}){{0,3}}/?", fullmatch=True).filter(
    lambda text: "@" not in text.split("/")[2]
)
MIRRORED = st.from_regex(rf"https?://{PLACES}(/[A-Za-z0-9._~-]{{1,12}}){{0,4}}/?", fullmatch=True)
CHANNELS = st.lists(MIRRORED | st.sampled_from(["conda-forge", "defaults", "pytorch"]), min_size=1, max_size=4)
PROXY = {"http": "http://proxy.example:3128", "no_proxy": (".lab.example", "localhost")}
ALL = Inside.model_validate(
    {
        "pip_index": "https://m.example/a%20b/simple",
        "conda_channels": ("https://m.example/anaconda/cloud/conda-forge", "https://m.example/anaconda/pkgs/main"),
        "hf_endpoint": "https://hf-mirror.com",
        "proxy": PROXY,
        "timezone": "Asia/Shanghai",
        "env": {"WANDB_MODE": "offline", "NOTE": 'a "b" $HOME ${x} \\ 李雷 %s\'#'},
    }
)
OLD = a_locked_image()
NEW = OLD.model_copy(update={"format": 2})
EXTRA = {"tensorboard": 6006, "gradio": 7860}


def with_options(**options: Any) -> Seat:
    return a_seat(options=SeatOptions(**options))


def compose(seat: Seat, image: LockedImage = OLD) -> dict[str, Any]:
    return dict(compose_text.read(DOCUMENTS.bundle(seat, image).files["compose.yaml"]))


def pip_conf(text: str) -> dict[str, str]:
    parser = RawConfigParser()  # as pip._internal.configuration does
    parser.read_string(text)
    return dict(parser["global"])


@given(URLS)
def test_pip_and_uv_read_the_index_that_lab_yml_says(index: str) -> None:
    files = inside_files(Inside(pip_index=index))
    assert pip_conf(files["pip.conf"])["index-url"] == index
    assert tomllib.loads(files["uv.toml"]) == {"index-url": index}


@given(CHANNELS)
def test_conda_reads_the_channels_that_lab_yml_says(channels: list[str]) -> None:
    found = yaml.safe_load(inside_files(Inside(conda_channels=tuple(channels)))["condarc"])
    assert found["channels"] == channels
    for name, place in found.get("custom_channels", {}).items():
        assert f"{place}/{name}" in {channel.rstrip("/") for channel in channels}
    assert set(found.get("default_channels", ())) <= set(channels)


def test_the_names_that_images_of_the_field_have_stand_for_the_channels_of_the_lab() -> None:
    """Tried with conda 26.7: its own channels `conda-forge` and `defaults` then have these addresses."""
    found = yaml.safe_load(inside_files(ALL)["condarc"])
    assert found["custom_channels"]["conda-forge"] == "https://m.example/anaconda/cloud"
    assert found["default_channels"] == ["https://m.example/anaconda/pkgs/main"]


VARIABLE = st.text(st.characters(exclude_categories=("Cs", "Cc", "Zl", "Zp")), max_size=40)


@given(st.dictionaries(st.from_regex(r"X_[A-Z0-9_]{0,8}", fullmatch=True), VARIABLE, max_size=3))
def test_both_services_get_the_variables_that_lab_yml_says(variables: dict[str, str]) -> None:
    try:
        inside = Inside(env=variables)
    except ValidationError:  # it looks like a secret, or cannot be seen
        return
    text = render(with_options(inside=inside), OLD, TEMPLATES).files["compose.yaml"]
    for service in compose_text.read(text)["services"].values():
        assert variables.items() <= service["environment"].items()


@pytest.mark.parametrize("text", ["\ufffd \U0001f600", "${HOME} $$ %TEMP%", "'\"\\", "- a: &b *c # d", "\u00e9\u0301"])
def test_both_services_get_what_can_be_seen_as_it_is(text: str) -> None:
    services = compose(with_options(inside=Inside(env={"X": text})))["services"]
    assert [service["environment"]["X"] for service in services.values()] == [text, text]


@pytest.mark.parametrize("text", ["a\u3000b", "\u200b", "\ufeff", "\u202e", "a\u00a0b"])
def test_what_cannot_be_seen_is_refused(text: str) -> None:
    with pytest.raises(ValidationError, match="X has a character that cannot be seen"):
        Inside(env={"X": text})


def test_a_mirror_of_hugging_face_is_not_passed_by_and_the_admin_may_say_otherwise() -> None:
    mirror = "https://hf-mirror.com"
    assert inside_variables(Inside(hf_endpoint=mirror)) == {"HF_ENDPOINT": mirror, "HF_HUB_DISABLE_XET": "1"}
    own = Inside(hf_endpoint=mirror, env={"HF_HUB_DISABLE_XET": "0"})
    assert inside_variables(own)["HF_HUB_DISABLE_XET"] == "0"


def test_variables_and_files_of_a_seat() -> None:
    services = compose(with_options(inside=ALL))["services"]
    for service in services.values():
        assert inside_variables(ALL).items() <= service["environment"].items()
        targets = [mount["target"] for mount in service["volumes"]]
        assert targets[-3:] == ["/etc/pip.conf", "/etc/uv/uv.toml", "/etc/conda/.condarc"]
        assert all(mount["read_only"] for mount in service["volumes"][1:])
        assert not any("INDEX" in name for name in service["environment"])
    environment = services["ssh"]["environment"]
    assert environment["no_proxy"] == "localhost,127.0.0.1,::1,jupyter,ssh,.lab.example"
    assert environment["HTTPS_PROXY"] == environment["http_proxy"] == PROXY["http"]


@pytest.mark.parametrize("kind", ["", "self_service"])
@pytest.mark.parametrize("format_", [1, 2])
@pytest.mark.parametrize("inside", [Inside(), Inside(timezone="Asia/Shanghai"), ALL])
def test_a_filled_document_is_what_the_templates_render(kind: str, format_: int, inside: Inside) -> None:
    seat = a_seat(kind=kind, cull_s=3600, options=SeatOptions(inside=inside, extra=EXTRA))
    image = OLD.model_copy(update={"format": format_})
    files = DOCUMENTS.bundle(seat, image).files
    assert files == render(seat, image, TEMPLATES).files
    assert INSIDE_FILES.keys() & files.keys() == inside_files(inside).keys()


def test_seats_of_other_options_have_other_documents() -> None:
    seats = [with_options(), with_options(inside=ALL), with_options(extra=EXTRA), with_options(agent_forwarding=False)]
    digests = {DOCUMENTS.document(seat, image).digest for seat in seats for image in (OLD, NEW)}
    assert len(digests) == 2 * len(seats) - 1  # agent forwarding changes nothing for an image of an earlier release


def test_values_with_the_digits_of_ports_are_no_slots() -> None:
    digits = " ".join(str(port) for port in range(90001, 90013))
    environment = compose(with_options(inside=Inside(env={"X": digits})))["services"]["ssh"]["environment"]
    assert environment["X"] == digits


CHANGES: list[tuple[str, Any]] = [
    ("environment.TZ", "UTC"),
    ("environment.http_proxy", None),
    ("environment.MPLCONFIGDIR", "/home/student/.config/matplotlib"),
    ("volumes.-1.target", "/etc/other"),
    ("volumes.-1.read_only", False),
    ("volumes.-1.source", "./passwd"),
    ("volumes.-1", None),
]


@pytest.mark.parametrize(("path", "value"), CHANGES)
def test_a_template_that_leaves_one_out_or_changes_it_is_refused(path: str, value: Any) -> None:
    seat = with_options(inside=ALL)
    project = yaml.safe_load(render(seat, NEW, TEMPLATES).files["compose.yaml"])
    *parents, last = path.split(".")
    place: Any = project["services"]["ssh"]
    for key in parents:
        place = place[int(key) if isinstance(place, list) else key]
    where: Any = int(last) if isinstance(place, list) else last
    if value is None:
        del place[where]
    else:
        place[where] = value
    with pytest.raises(ProblemError) as refused:
        prove(yaml.safe_dump(project), seat, NEW)
    assert {problem.code for problem in refused.value.problems} == {"compose_refused"}


def test_files_of_a_lab_without_inside_are_no_part_of_a_seat() -> None:
    text = render(with_options(inside=ALL), OLD, TEMPLATES).files["compose.yaml"]
    with pytest.raises(ProblemError, match=r"/etc/pip\.conf"):
        prove(text, with_options(), OLD)


@pytest.mark.parametrize("forwarding", [True, False])
@pytest.mark.parametrize("format_", [1, 2])
def test_agent_forwarding_and_idle_lines(forwarding: bool, format_: int) -> None:
    image = OLD.model_copy(update={"format": format_})
    lines = DOCUMENTS.bundle(with_options(agent_forwarding=forwarding), image).files["sshd_config"].splitlines()
    assert ("AllowAgentForwarding yes" in lines, "AllowAgentForwarding no" in lines) == (
        (True, False) if forwarding and format_ > 1 else (False, True)
    )
    assert ("ClientAliveInterval 60" in lines) == (format_ > 1)
    assert "AllowTcpForwarding yes" in lines


def test_caches_that_would_be_wrong_with_another_image_belong_to_it() -> None:
    base, lab = (f"{text.partition('@')[0]}@sha256:{'0' * 64}" for text in (NEW.base, NEW.lab))
    other = NEW.model_copy(update={"base": base, "lab": lab})
    old, new, third = (compose(a_seat(), image)["services"]["jupyter"]["environment"] for image in (OLD, NEW, other))
    assert set(new) - set(old) == {"MPLCONFIGDIR", "TORCH_EXTENSIONS_DIR"}
    for name in set(new) - set(old):
        assert new[name].startswith("/home/student/.provisioner/cache/2.10.0-")
        assert third[name] != new[name]


def test_extra_ports_are_in_jupyters_configuration_as_python() -> None:
    text = DOCUMENTS.bundle(with_options(extra=EXTRA), OLD).files["jupyter_server_config.py"]
    assert text.startswith(TEMPLATES["jupyter_server_config.py"])
    config = SimpleNamespace(ServerProxy=SimpleNamespace())
    exec(text.removeprefix(TEMPLATES["jupyter_server_config.py"]), {"c": config})
    servers = config.ServerProxy.servers
    assert {name: (one["command"], one["port"]) for name, one in servers.items()} == {
        name: ([], port) for name, port in EXTRA.items()
    }
    assert DOCUMENTS.bundle(a_seat(), OLD).files["jupyter_server_config.py"] == TEMPLATES["jupyter_server_config.py"]


def test_an_extra_port_where_nothing_listens_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Through the function that jupyter-server-proxy calls with the path of each request."""
    monkeypatch.setitem(sys.modules, "tornado.web", SimpleNamespace(HTTPError=RefusalError))
    monkeypatch.setitem(sys.modules, "tornado", SimpleNamespace())
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        config = SimpleNamespace(ServerProxy=SimpleNamespace())
        exec(extra_lines(SeatOptions(extra={"tensorboard": port})), {"c": config})
        check = config.ServerProxy.servers["tensorboard"]["mappath"]
        assert check("/a") == "/a"
    with pytest.raises(RefusalError) as refused:
        check("/a")
    status, text, *values = refused.value.args
    assert status == 503
    shown = text % tuple(values)
    assert shown.startswith(f"nothing listens on port {port} of this seat: start the program of /tensorboard/")


class RefusalError(Exception):
    """Stands for the error with which tornado answers a request."""


def test_the_questions_of_a_node_have_the_servers_of_lab_yml() -> None:
    seat = with_options(inside=ALL, extra=EXTRA)
    found = json.loads(DOCUMENTS.bundle(seat, OLD).files[QUESTIONS_FILE])
    assert (found["index"], found["hf"], found["extra"]) == (ALL.pip_index, ALL.hf_endpoint, True)
    assert found["variables"].items() <= inside_variables(ALL).items()
    assert QUESTIONS_FILE not in DOCUMENTS.bundle(a_seat(), OLD).files
    assert questions_text(SeatOptions(inside=Inside(env={"A": "b"}))) == ""


# --- the tools themselves


def run(words: list[str], **variables: str) -> str:
    kept = {"PATH": os.environ["PATH"], **variables}
    return subprocess.run(words, env=kept, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(
    "index", [ALL.pip_index, "http://10.0.0.5:3141/root/pypi/+simple/", "https://m.example/$&'()"[:-3]]
)
def test_pip_itself(tmp_path: Path, index: str) -> None:
    (tmp_path / "pip.conf").write_text(inside_files(Inside(pip_index=index))["pip.conf"])
    found = run([sys.executable, "-m", "pip", "config", "list"], PIP_CONFIG_FILE=str(tmp_path / "pip.conf"))
    assert f"global.index-url='{index}'" in found
    assert ("global.trusted-host='10.0.0.5:3141'" in found) == index.startswith("http://")


def uv_index(tmp_path: Path, own: str, **variables: str) -> str:
    """Return the default index of uv. `own`: the student's uv.toml."""
    for folder, text in (("etc", inside_files(ALL)["uv.toml"]), ("home", own)):
        (tmp_path / folder / "uv").mkdir(parents=True)
        (tmp_path / folder / "uv/uv.toml").write_text(text)
    places = {"XDG_CONFIG_DIRS": str(tmp_path / "etc"), "XDG_CONFIG_HOME": str(tmp_path / "home")}
    uv = str(Path(sys.executable).with_name("uv"))
    found = run([uv, "--directory", str(tmp_path), "pip", "list", "--show-settings"], **places, **variables)
    indexes = [part for part in found.partition("indexes: [")[2].split("Index {") if "default: true" in part]
    return indexes[0].partition("given: Some(")[2].split('"')[1]


@pytest.mark.parametrize(
    ("own", "variables"),
    [
        ('index-url = "https://own.example/simple"\n', {}),
        ('[pip]\nindex-url = "https://own.example/simple"\n', {}),
        ('[[index]]\nurl = "https://own.example/simple"\ndefault = true\n', {}),
        ("", {"UV_DEFAULT_INDEX": "https://own.example/simple"}),
        ("", {"UV_INDEX_URL": "https://own.example/simple"}),
    ],
)
def test_uv_itself_and_a_student_who_says_otherwise(tmp_path: Path, own: str, variables: dict[str, str]) -> None:
    assert uv_index(tmp_path / "lab", "") == ALL.pip_index
    assert uv_index(tmp_path / "own", own, **variables) == "https://own.example/simple"
