"""A course's packages: chosen by the real uv, downloaded by the real pip, from an index of small wheels."""

import re
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from provisioner.adapters.engine.base_image import BaseFacts
from provisioner.adapters.engine.course import Course, CourseRequirements, save_requirements
from provisioner.adapters.resources import templates
from provisioner.domain.values.event import Event
from provisioner.domain.values.problem import Problem, ProblemError
from tests.made_wheel import a_wheel

BASE, OTHER = "sha256:" + "a" * 64, "sha256:" + "b" * 64
PACKAGES = {"torch": "2.8.0+cu128", "nvidia-cublas-cu12": "12.8.4.1", "numpy": "2.1.0"}
LAB_REQUIREMENTS = (templates() / "requirements-lab.txt").read_text()


def a_base(packages: dict[str, str] | None = None, version: str = "3.12.3", glibc: str = "2.39") -> BaseFacts:
    return BaseFacts(
        python="/usr/bin/python3",
        version=version,
        machine="x86_64",
        glibc=glibc,
        jupyter=False,
        sshd=False,
        apt=True,
        packages=PACKAGES if packages is None else packages,
    )


@dataclass
class Place:
    """A lab's directory with the environment nlp, and the index of this machine."""

    folder: Path
    index: Path
    events: list[Event] = field(default_factory=list)

    @property
    def nlp(self) -> Path:
        return self.folder / "environments/nlp"

    @property
    def lock(self) -> str:
        return (self.nlp / "requirements.lock").read_text()

    def write(self, text: str, name: str = "requirements.txt") -> None:
        (self.nlp / name).write_text(text)

    def courses(self) -> CourseRequirements:
        files = {"nlp": "environments/nlp/requirements.txt"}
        return CourseRequirements(self.folder, files, LAB_REQUIREMENTS, self.events.append)

    def resolved(self, facts: BaseFacts | None = None, base: str = BASE) -> Course:
        """Resolve and save, as `provision lock` does."""
        courses = self.courses()
        course = courses.find("nlp", base) or courses.resolve("nlp", base, facts or a_base())
        save_requirements(courses.files())
        return course

    def problems(self, facts: BaseFacts | None = None) -> tuple[Problem, ...]:
        with pytest.raises(ProblemError) as refused:
            self.resolved(facts)
        return refused.value.problems


class Guarded(SimpleHTTPRequestHandler):
    """A folder of wheels by package, for those who have the password: its lists of files are pages of an index."""

    def do_GET(self) -> None:
        if self.headers.get("Authorization") == f"Basic {b64encode(b'user:secret').decode()}":
            return super().do_GET()
        self.send_response(HTTPStatus.UNAUTHORIZED)
        self.send_header("WWW-Authenticate", 'Basic realm="index"')
        self.end_headers()
        return None

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@contextmanager
def index_with_password(folder: Path) -> Iterator[str]:
    """Serve an index on loopback; yield its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Guarded, directory=str(folder)))
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    index = tmp_path / "index"
    index.mkdir()
    for name in ("UV_DEFAULT_INDEX", "UV_INDEX", "UV_FIND_LINKS", "PIP_CONSTRAINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "no-config"))
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    a_wheel(index, "torch", "2.8.0", needs=["nvidia-cublas-cu12==12.9.0.13"])
    a_wheel(index, "torch", "2.10.0", needs=["nvidia-cublas-cu12==12.9.0.13"])
    a_wheel(index, "nvidia_cublas_cu12", "12.9.0.13")
    a_wheel(index, "numpy", "2.1.0")
    a_wheel(index, "numpy", "2.3.0")
    a_wheel(index, "trainer", "1.0", needs=["torch>=2.6", "numpy"])
    a_wheel(index, "newest", "3.0", needs=["middle"])
    a_wheel(index, "middle", "1.5", needs=["torch>=2.10"])
    a_wheel(index, "oldest", "0.3", needs=["torch<2"])
    a_wheel(index, "plain", "1.0")
    place = Place(tmp_path / "lab", index)
    place.nlp.mkdir(parents=True)
    return place


def entries(text: str) -> list[str]:
    return re.findall(r"^([a-z0-9_.-]+==\S+) \\$", text, re.MULTILINE)


def test_the_bases_torch_stays_and_its_other_versions_are_preferred(place: Place) -> None:
    place.write("trainer\n")
    course = place.resolved()
    assert entries(course.requirements) == ["numpy==2.1.0", "trainer==1.0"]
    assert entries(place.lock) == ["numpy==2.1.0", "trainer==1.0"]
    assert place.lock.splitlines()[:6] == [
        "# Written by `provision lock` from environments/nlp/requirements.txt: edit that file, and run it again.",
        "# python: 3.12",
        "# platform: x86_64-manylinux_2_39",
        "# pin: nvidia-cublas-cu12==12.8.4.1",
        "# pin: torch==2.8.0",
        f"# base: {BASE}",
    ]
    assert "    # via -r requirements.txt" in place.lock
    assert "://" not in place.lock


def test_a_committed_lock_needs_neither_facts_nor_an_index(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.write("trainer\nplain>=1\n")
    course, text = place.resolved(), place.lock
    monkeypatch.setenv("PIP_FIND_LINKS", "/nowhere")
    place.write("# a comment\r\n\r\nPlain >= 1   # why\r\nTrainer\r\n")
    courses = place.courses()
    assert courses.find("nlp", BASE) == course
    assert courses.find("nlp", OTHER) is None
    save_requirements(courses.files())
    assert place.lock == text


def test_another_base_of_the_same_target_needs_no_index(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.write("trainer\n")
    course = place.resolved()
    monkeypatch.setenv("PIP_FIND_LINKS", "/nowhere")
    assert place.resolved(a_base(PACKAGES | {"torch": "2.8.0+cu128.other"}), OTHER) == course
    assert place.lock.count("# base: ") == 2
    assert place.courses().find("nlp", BASE) == place.courses().find("nlp", OTHER) == course


def test_versions_that_fit_are_kept_when_a_package_is_added(place: Place) -> None:
    place.write("plain\n")
    place.resolved()
    a_wheel(place.index, "plain", "2.0")
    place.write("plain\ntrainer\n")
    assert "plain==1.0" in entries(place.resolved().requirements)
    place.write("plain>=2\ntrainer\n")
    assert "plain==2.0" in entries(place.resolved().requirements)


def test_split_images_have_a_lock_each(place: Place) -> None:
    place.write("trainer\n")
    courses = place.courses()
    for base, facts in ((BASE, a_base()), (OTHER, a_base({"torch": "2.7.1+cu118"}, version="3.11.2"))):
        courses.resolve("nlp", base, facts)
    save_requirements(courses.files())
    assert sorted(path.name for path in place.nlp.glob("*.lock")) == [
        "requirements-2.7.1-py3.11.lock",
        "requirements.lock",
    ]
    again = place.courses()
    assert again.find("nlp", BASE)
    assert again.find("nlp", OTHER)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("plain\ntorch>=2.10\n", ["requirements.txt:2: torch>=2.10", "torch==2.8.0+cu128", "torch==2.10.0"]),
        ("newest\nplain\n", ["requirements.txt:1: newest", "newest → middle → torch", "torch==2.8.0+cu128"]),
        ("plain\ntorch<2\n", ["requirements.txt:2: torch<2", "torch==2.8.0+cu128", "the index has no torch"]),
        ("oldest\n", ["requirements.txt:1: oldest", "torch==2.8.0+cu128", "the index has no torch"]),
    ],
    ids=["direct", "through another package", "direct, in no index", "through another package, in no index"],
)
def test_a_conflict_names_the_line_and_the_images_package(place: Place, text: str, named: list[str]) -> None:
    place.write(text)
    (problem,) = place.problems()
    assert problem.code == "torch_conflict"
    for part in named:
        assert part in problem.what
    assert "environments.nlp.torch" in problem.fix
    assert "/tmp/" not in problem.what.partition("\n")[2]
    assert not (place.nlp / "requirements.lock").exists()


def test_every_line_without_a_solution_is_named_with_its_kind(place: Place) -> None:
    a_wheel(place.index, "winonly", "1.0", tag="cp312-cp312-win_amd64")
    place.write("plain\nnewest\nwinonly\nno-such-package\nplain>=7\n")
    found = place.problems()
    assert [problem.code for problem in found] == ["torch_conflict", *["course_unresolved"] * 3]
    for problem, line in zip(found, (2, 3, 4, 5), strict=True):
        assert f"requirements.txt:{line}: " in problem.what
    assert "winonly" in found[1].what
    assert "wheels" in found[1].fix


def test_lines_that_do_not_fit_each_other_are_named_together(place: Place) -> None:
    a_wheel(place.index, "left", "1.0", needs=["numpy<2.2"])
    a_wheel(place.index, "right", "1.0", needs=["numpy>=2.2"])
    place.write("left\nplain\nright\n")
    (problem,) = place.problems()
    assert problem.code == "course_unresolved"
    assert "requirements.txt:1: left" in problem.what
    assert "requirements.txt:3: right" in problem.what
    assert "plain" not in problem.what


def test_an_own_wheel_is_locked_by_its_hash_and_a_changed_one_is_locked_anew(place: Place) -> None:
    (place.nlp / "wheels").mkdir()
    a_wheel(place.nlp / "wheels", "homemade", "1.0")
    place.write("homemade\n")
    first = place.resolved()
    a_wheel(place.nlp / "wheels", "homemade", "1.0", {"homemade.py": "changed = True\n"})
    second = place.resolved()
    assert entries(first.requirements) == entries(second.requirements) == ["homemade==1.0"]
    assert first.sha256 != second.sha256


def test_the_context_gets_the_locked_wheels_and_a_pip(place: Place, tmp_path: Path) -> None:
    (place.nlp / "wheels").mkdir()
    a_wheel(place.nlp / "wheels", "homemade", "1.0")
    a_wheel(place.index, "pip", "99.0")
    place.write("homemade\nplain\npip\n")
    course = place.resolved()
    context = tmp_path / "context"
    context.mkdir()
    place.courses().fill(context, course, a_base())
    assert sorted(path.name for path in context.iterdir()) == ["requirements.txt", "wheels"]
    assert sorted(path.name.partition("-")[0] for path in (context / "wheels").iterdir()) == [
        "homemade",
        "pip",
        "plain",
    ]
    assert (context / "requirements.txt").read_text() == course.requirements


def test_without_the_index_the_failure_says_so(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://user:secret@127.0.0.1:9/simple")
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    place.write("plain\n")
    (problem,) = place.problems()
    assert problem.code == "course_index_failed"
    assert "127.0.0.1:9" in problem.what
    assert "secret" not in str(problem)


def test_files_of_editors_and_files_that_they_name(place: Place) -> None:
    (place.nlp / "requirements.txt").write_bytes("# \u8bfe\u7a0b\r\nplain\r\n-r ../common/more.txt\r\n".encode("gbk"))
    (place.nlp.parent / "common").mkdir()
    more = "-r ../nlp/requirements.txt\r\ntrainer\r\n-c limits.txt\r\n"
    (place.nlp.parent / "common/more.txt").write_bytes(b"\xef\xbb\xbf" + more.encode())
    (place.nlp.parent / "common/limits.txt").write_text("numpy==2.3.0\n")
    assert entries(place.resolved().requirements) == ["numpy==2.3.0", "plain==1.0", "trainer==1.0"]


def test_mistakes_of_all_files_come_at_once_and_before_a_base_is_pulled(place: Place) -> None:
    place.write("plain\n-r missing.txt\n-r ../../../secret.txt\nnumpy=1\n")
    place.write("numpy==1.0\n", "requirements.lock")
    with pytest.raises(ProblemError) as refused:
        place.courses().find("nlp", BASE)
    whats = [problem.what.replace(f"{place.nlp}/", "") for problem in refused.value.problems]
    assert refused.value.ending == "usage"
    assert whats[0].startswith("requirements.txt:4: not a requirement: numpy=1")
    assert whats[1].startswith("requirements.txt:2: missing.txt: there is no such file")
    assert whats[2].startswith("requirements.txt:3: ")
    assert "not below the directory of the lab" in whats[2]
    assert any(what.startswith("requirements.lock:1: numpy has no hash") for what in whats)


def test_a_missing_requirements_file_says_where_it_is_named(place: Place) -> None:
    (problem,) = place.problems()
    assert problem.code == "no_such_file"
    assert "environments.nlp.pip in lab.yml" in problem.fix


def test_a_lock_of_other_inputs_is_not_taken(place: Place) -> None:
    place.write("plain\n")
    place.resolved()
    place.write("plain\ntrainer\n")
    assert place.courses().find("nlp", BASE) is None
    # What a person writes into the head of the file counts no more than what is hashed there.
    (place.nlp / "requirements.lock").write_text(place.lock.replace("torch==2.8.0", "torch==2.9.0"))
    place.write("plain\n")
    assert place.courses().find("nlp", BASE) is None


def test_an_empty_file_installs_nothing(place: Place) -> None:
    place.write("# packages follow\n")
    assert place.resolved().requirements == ""
    assert place.courses().find("nlp", BASE) is not None


def test_a_base_of_a_nightly_torch_is_kept(place: Place) -> None:
    place.write("trainer\n")
    nightly = a_base({"torch": "2.8.0a0+34c6371d24.nv25.08", "numpy": "1.26.4+vendor"})
    assert entries(place.resolved(nightly).requirements) == ["numpy==2.3.0", "trainer==1.0"]
    assert "# pin: torch==2.8.0a0\n" in place.lock


def test_saving_twice_writes_once(place: Place) -> None:
    place.write("plain\n")
    place.resolved()
    before = (place.nlp / "requirements.lock").stat().st_mtime_ns
    place.resolved()
    assert (place.nlp / "requirements.lock").stat().st_mtime_ns == before


def test_settings_that_another_user_left_in_the_temporary_folder_are_not_read(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = tmp_path / "shared"
    (tmp_path / "evil").mkdir()
    shared.mkdir()
    a_wheel(tmp_path / "evil", "plain", "9.0")
    (shared / "uv.toml").write_text(f'find-links = ["{tmp_path / "evil"}"]\n')
    monkeypatch.setattr("tempfile.tempdir", str(shared))
    place.write("plain\n")
    assert entries(place.resolved().requirements) == ["plain==1.0"]


def test_a_constraint_of_this_machines_pip_does_not_stop_the_download(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "constraint.txt").write_text("plain<1\n")
    monkeypatch.setenv("PIP_CONSTRAINT", str(tmp_path / "constraint.txt"))
    a_wheel(place.index, "pip", "99.0")
    place.write("plain\npip\n")
    course = place.resolved()
    (tmp_path / "context").mkdir()
    place.courses().fill(tmp_path / "context", course, a_base())
    assert len(list((tmp_path / "context/wheels").iterdir())) == 2


def test_a_base_without_glibc_is_refused(place: Place) -> None:
    place.write("plain\n")
    (problem,) = place.problems(a_base(glibc=""))
    assert problem.code == "course_unfit"


def test_a_wheel_that_the_index_has_exchanged_keeps_its_locked_hash(place: Place, tmp_path: Path) -> None:
    place.write("plain\n")
    first = place.resolved()
    a_wheel(place.index, "plain", "1.0", {"plain.py": "import os\n"})
    a_wheel(place.index, "pip", "99.0")
    place.write("plain\npip\n")
    second = place.resolved()
    assert first.requirements in second.requirements
    (tmp_path / "context").mkdir()
    with pytest.raises(ProblemError, match="no_wheels"):
        place.courses().fill(tmp_path / "context", second, a_base())


def test_the_password_of_an_index_is_used_and_shown_nowhere(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("plain", "pip"):
        (tmp_path / "served/simple" / name).mkdir(parents=True)
        a_wheel(tmp_path / "served/simple" / name, name, "99.0")
    for name in ("PIP_NO_INDEX", "PIP_FIND_LINKS"):
        monkeypatch.delenv(name)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    place.write("plain\npip\n")
    context = tmp_path / "context"
    context.mkdir()
    with index_with_password(tmp_path / "served") as address:
        monkeypatch.setenv("PIP_INDEX_URL", f"http://user:secret@{address}/simple")
        course = place.resolved()
        place.courses().fill(context, course, a_base())
        place.write("plain>100\n")
        (problem,) = place.problems()
    assert sorted(path.name for path in (context / "wheels").iterdir()) == [
        "pip-99.0-py3-none-any.whl",
        "plain-99.0-py3-none-any.whl",
    ]
    assert problem.code == "course_unresolved"
    assert "secret" not in f"{place.lock}{problem}{place.events}"
    assert "://" not in place.lock


@pytest.mark.parametrize("line", ["torch", "torch==2.8.0", "torch==2.8.0+cu128", "torch[opt]~=2.8", "torch>2.7,<3"])
def test_a_line_that_the_images_torch_fits_installs_nothing(place: Place, line: str) -> None:
    place.write(f"{line}\n")
    assert place.resolved().requirements == ""
    assert place.courses().find("nlp", BASE) is not None


def test_constraints_limit_and_are_named_in_a_conflict(place: Place) -> None:
    place.write("trainer\n-c limits.txt\n")
    place.write("torch<2.7\n", "limits.txt")
    (problem,) = place.problems()
    assert "requirements.txt:1: trainer" in problem.what
    assert "torch<2.7" in problem.what
