"""Locks of other package managers, and packages that must not be upgraded. The journeys run the real apt."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.playbooks.node_code import ProblemError, module_util, problem

apt: Any = module_util("prepare.apt")
Ran: Any = module_util("base.command").CommandResult
pytestmark = pytest.mark.usefixtures("_short_waits")

HOLDER = """
import fcntl, sys
file = open(sys.argv[1], "r+")
fcntl.lockf(file, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "lock"
    path.touch()
    monkeypatch.setattr(apt, "LOCKS", (path, tmp_path / "never made"))
    return path


def holder(path: Path) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    process = subprocess.Popen([sys.executable, "-c", HOLDER, path], stdin=pipe, stdout=pipe, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_waiting_for_a_package_lock_is_reported_once(lock: Path) -> None:
    reports: list[str] = []
    with holder(lock) as process:

        def report(text: str) -> None:
            reports.append(text)
            process.communicate("go on\n")

        apt.wait_for_locks(report)
    assert len(reports) == 1
    assert "waiting" in reports[0]
    apt.wait_for_locks(reports.append)
    assert len(reports) == 1


def test_a_package_lock_that_is_not_released_in_time_is_reported_with_its_path(lock: Path) -> None:
    with holder(lock) as process:
        with pytest.raises(ProblemError) as caught:
            apt.wait_for_locks(lambda _: None, 0.1)
        process.communicate("go on\n")
    assert problem(caught)["code"] == "apt_busy"
    assert str(lock) in problem(caught)["what"]


@pytest.fixture
def scripted(lock: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, Any], list[str]]:
    """Answers of apt-get and dpkg by subcommand, option or program, and the calls in order. No package is installed."""
    monkeypatch.setattr(apt, "ARCHIVES", lock.parent / "archives")
    answers: dict[str, Any] = {}
    calls: list[str] = []

    def run(argv: list[str], *_: Any, **__: Any) -> Any:
        words = ("update", "--simulate", "--download-only", "--no-download", "download")
        word = next((w for w in argv if w in words), argv[0])
        if word != "dpkg-query":
            calls.append(word)
        answer = answers.get(word, Ran(0, "", ""))
        return answer.pop(0) if isinstance(answer, list) else answer

    monkeypatch.setattr(apt, "run", run)
    monkeypatch.setattr(apt.shutil, "which", lambda _: "/usr/bin/apt-get")
    return answers, calls


def install(untouched: frozenset[str] = frozenset()) -> None:
    apt.install(["docker-compose"], untouched, 10, lambda _: None)


def test_packages_are_installed_only_after_a_complete_download(scripted: tuple[dict[str, Any], list[str]]) -> None:
    answers, calls = scripted
    install()
    assert calls == ["update", "--simulate", "--download-only", "--no-download"]
    for word, code, last in (
        ("--no-download", "not_installed", "--no-download"),
        ("--download-only", "not_fetched", "--download-only"),
        ("--simulate", "no_package", "--simulate"),
    ):
        answers[word] = Ran(100, "", "E: no")
        calls.clear()
        with pytest.raises(ProblemError) as caught:
            install()
        assert problem(caught)["code"] == code
        assert calls[-1] == last


def test_unreadable_package_lists_stop_an_installation_only_if_the_package_is_unknown(
    scripted: tuple[dict[str, Any], list[str]],
) -> None:
    answers, calls = scripted
    answers["update"] = Ran(100, "", "E: an unused source is unreachable")
    install()
    assert calls[-1] == "--no-download"
    answers["--simulate"] = Ran(100, "", "E: Unable to locate package")
    with pytest.raises(ProblemError) as caught:
        install()
    assert "unreachable" in problem(caught)["what"]


def test_an_installation_that_would_upgrade_an_engine_in_use_is_refused(
    scripted: tuple[dict[str, Any], list[str]],
) -> None:
    answers, calls = scripted
    answers["--simulate"] = Ran(0, "Inst docker.io [26.1] (27.0 x)\nInst docker-compose (2.26 x)\n", "")
    with pytest.raises(ProblemError) as caught:
        install(frozenset({"docker.io", "containerd"}))
    assert problem(caught)["code"] == "engine_would_restart"
    assert calls[-1] == "--simulate"
    answers["--simulate"] = Ran(0, "Inst docker.io (27.0 x)\nInst docker-compose [2.25] (2.26 x)\n", "")
    install(frozenset({"docker.io", "containerd"}))


def a_source(folder: Path, number: int) -> Any:
    """Build a package source whose files lie in `folder`."""
    uri = f"http://m{number}.example/docker"
    place = {"path": folder / "sources.list.d/docker.sources", "keyring": folder / "keyrings/docker.asc"}
    place["path"].parent.mkdir(exist_ok=True)
    return SimpleNamespace(name="docker", uri=uri, suite="trixie", key=f"KEY {number}", text=f"URIs: {uri}\n", **place)


def test_of_several_sources_the_first_is_used_from_which_the_packages_can_be_downloaded(
    scripted: tuple[dict[str, Any], list[str]], tmp_path: Path
) -> None:
    """The first has an expired list, the second has the package in its list only."""
    answers, calls = scripted
    good, reports = Ran(0, "", ""), list[str]()
    answers["update"] = [Ran(100, "", "E: Release file is expired"), good, good]
    answers["download"] = [Ran(100, "", "E: 404 Not Found"), good]
    sources = [a_source(tmp_path, number) for number in (1, 2, 3, 4)]
    apt.use_first_source(sources, ["docker-ce"], 10, reports.append)
    assert calls == ["update", "update", "download", "update", "download"]
    assert (sources[0].path.read_text(), sources[0].keyring.read_text()) == (sources[2].text, "KEY 3")
    assert "expired" in "".join(reports)


def test_without_a_source_that_has_the_packages_each_is_named_with_its_reason(
    scripted: tuple[dict[str, Any], list[str]], tmp_path: Path
) -> None:
    answers, _ = scripted
    answers["update"] = [Ran(100, "", "E: Release file is expired"), Ran(0, "", "")]
    answers["download"] = Ran(100, "", "E: 404 Not Found")
    sources = [a_source(tmp_path, number) for number in (1, 2)]
    with pytest.raises(ProblemError) as caught:
        apt.use_first_source(sources, ["docker-ce"], 10, lambda _: None)
    found = problem(caught)
    assert found["code"] == "source_refused"
    assert all(words in found["what"] for words in (sources[0].uri, "expired", sources[1].uri, "404"))
    assert not sources[0].path.exists()
