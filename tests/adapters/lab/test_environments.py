"""The names of environments in lab.yml, lab.lock and the roster, and the requirements files that lab.yml names."""

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import yaml
from hypothesis import given

from provisioner.adapters.lab.directory import LabDirectory, read_lab
from provisioner.adapters.lab.lockfile import write_lock
from provisioner.domain.lab.lab import Lab
from provisioner.domain.lab.lock import LockedEnvironment
from provisioner.domain.values.problem import ProblemError
from tests.adapters.ansible.lies import with_lies
from tests.builders import a_lock

GOOD = 'name: demo\nmirror: {address: "m:5000"}\nregistry: {address: "r:5000"}\n'
NAMED = GOOD + "environments:\n  nlp: {torch: '2.10.*'}\n  cv: {}\n"
KEPT = a_lock().model_copy(
    update={"environments": {"2026s": LockedEnvironment(kept_from="default"), "gone": LockedEnvironment()}}
)
LabWith = Callable[..., Path]


@pytest.fixture
def lab_with(tmp_path: Path) -> LabWith:
    def write(lab: str, roster: str | None = None, **files: str | bytes) -> Path:
        with_roster = {} if roster is None else {"roster.csv": roster}
        for name, content in {"lab.yml": lab, "hosts.yml": "all: {}\n", **with_roster, **files}.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return tmp_path

    return write


def read(path: Path) -> LabDirectory:
    return read_lab(str(path))


def refused(path: Path) -> list[str]:
    """The problems with $ for the directory of the lab."""
    with pytest.raises(ProblemError) as refusal:
        read(path)
    assert refusal.value.ending == "usage"
    return [problem.what.replace(str(path), "$") for problem in refusal.value.problems]


def test_every_wrong_name_is_reported_at_once_with_its_place(lab_with: LabWith) -> None:
    lab = f"""{NAMED}seat: {{environment: nlpp}}
people: {{roster: roster.csv}}
groups:
  student: {{environments: [default, nlq]}}
  staff: {{environments: [nlp, 7]}}
"""
    roster = "id,environment,group\nanna,nlp,\nben,clp,\ncleo,cv,staff\ndora,,staff\nemil,nlp,staff\n"
    assert refused(lab_with(lab, roster)) == [
        '$/lab.yml:7:21: seat.environment: the lab has no environment "nlpp"; did you mean "nlp"?',
        '$/lab.yml:10:37: groups.student.environments[1]: the lab has no environment "nlq"; did you mean "nlp"?',
        '$/lab.yml:11:31: groups.staff.environments[1]: 7 is read as a number; write it in quotes: "7"',
        "$/roster.csv:2:2: group student may not have the environment nlp, only default, nlq",
        '$/roster.csv:3:2: there is no environment "clp"; did you mean "nlp"?',
    ]


def test_a_row_has_what_its_group_may_have(lab_with: LabWith) -> None:
    lab = f"""{NAMED}people: {{roster: roster.csv}}
groups:
  student: {{environments: [default, cv]}}
  staff: {{environments: [nlp]}}
"""
    roster = "id,environment,group\nanna,nlp,\nben,cv,\ncleo,cv,staff\ndora,,staff\nemil,nlp,staff\nfritz,,\n"
    assert refused(lab_with(lab, roster)) == [
        "$/roster.csv:2:2: group student may not have the environment nlp, only default, cv",
        "$/roster.csv:4:2: group staff may not have the environment cv, only nlp",
        "$/roster.csv:5:2: group staff may not have the environment default, only nlp",
    ]
    without_column = lab_with(lab, "id,group\nanna,staff\n")
    assert refused(without_column) == ["$/roster.csv:2:1: group staff may not have the environment default, only nlp"]
    people = read(lab_with(lab, "id,environment,group\nben,cv,\nemil,nlp,staff\n")).people
    assert [(person.id, person.environment) for person in people] == [("ben", "cv"), ("emil", "nlp")]


def test_where_accounts_decide_the_group_of_a_row_is_not_guessed(lab_with: LabWith) -> None:
    lab = NAMED + "people: {roster: roster.csv}\ngroups: {staff: {unix: lab-staff, environments: [nlp]}}\n"
    assert read(lab_with(lab, "id,environment\nanna,nlp\n")).people[0].environment == "nlp"


def test_seats_and_rows_may_name_what_the_lock_keeps_and_groups_may_not(lab_with: LabWith) -> None:
    lab = NAMED + "seat: {environment: 2026s}\npeople: {roster: roster.csv}\n"
    path = lab_with(lab, "id,environment\nanna,2026s\n")
    write_lock(path / "lab.lock", KEPT)
    assert read(path).people[0].environment == "2026s"
    lab_with(lab + "groups: {student: {environments: [nlp, 2026s, gone]}}\n")
    assert refused(path) == [
        "$/lab.yml:9:40: groups.student.environments[1]: 2026s is kept from default, and is not named in a group",
        '$/lab.yml:9:47: groups.student.environments[2]: the lab has no environment "gone"',
        "$/roster.csv:2:2: group student may not have the environment 2026s, only nlp, 2026s, gone",
    ]


def test_lab_yml_may_not_give_a_kept_name_to_another_environment(lab_with: LabWith) -> None:
    path = lab_with(GOOD + "environments:\n  2026s: {torch: '2.10.*'}\n  gone: {}\n")
    write_lock(path / "lab.lock", KEPT)
    assert refused(path) == ["$/lab.yml:5:3: lab.lock keeps an environment 2026s of before"]


def test_a_lock_that_cannot_be_read_matters_only_where_a_name_may_be_in_it(lab_with: LabWith) -> None:
    conflict = {"lab.lock": "<<<<<<< HEAD\n"}
    assert read(lab_with(NAMED, **conflict)).lab.name == "demo"
    assert refused(lab_with(NAMED + "seat: {environment: 2026s}\n", **conflict)) == [
        '$/lab.yml:7:21: seat.environment: the lab has no environment "2026s"',
        "$/lab.lock:1:1: not JSON: Expecting value",
    ]


@pytest.mark.parametrize(
    "environments", ["[nlp]", "[]", "null", "7", "{7: {}}", "{nlp: null}", "{default: {}}", "{NLP: {}}"]
)
def test_names_are_checked_beside_environments_with_mistakes(lab_with: LabWith, environments: str) -> None:
    lab = f"{GOOD}environments: {environments}\nseat: {{environment: none}}\n"
    assert '$/lab.yml:5:21: seat.environment: the lab has no environment "none"' in refused(lab_with(lab))


FILES = GOOD + "image: {pip: all.txt}\nenvironments:\n  nlp: {pip: environments/nlp/requirements.txt}\n  cv: {}\n"


def test_requirements_files_may_have_any_encoding_until_a_lock_is_made(lab_with: LabWith) -> None:
    files = {"all.txt": "numpy # 数\n".encode("gbk"), "environments/nlp/requirements.txt": "transformers\n"}
    assert read(lab_with(FILES, **files)).lab.image.pip == "all.txt"


def test_requirements_files_that_cannot_be_read_are_reported_with_their_places(lab_with: LabWith) -> None:
    assert refused(lab_with(FILES)) == [
        "$/lab.yml:4:14: $/all.txt: there is no such file",
        "$/lab.yml:6:14: $/environments/nlp/requirements.txt: there is no such file",
    ]
    large = {"all.txt": b"#" * (9 << 20), "environments/nlp/requirements.txt/x": ""}
    assert refused(lab_with(FILES, **large)) == [
        "$/lab.yml:4:14: $/all.txt: larger than 8 MiB",
        "$/lab.yml:6:14: $/environments/nlp/requirements.txt: Is a directory",
    ]


@pytest.mark.parametrize("file", ["/etc/passwd", "../other/requirements.txt", "a/../../b"])
def test_a_requirements_file_outside_of_the_lab_is_one_mistake(lab_with: LabWith, file: str) -> None:
    (mistake,) = refused(lab_with(GOOD + f"image: {{pip: {file}}}\n"))
    assert mistake == f"$/lab.yml:4:14: image.pip: '{file}' is not the path of a file below the directory of the lab"


@pytest.mark.parametrize("groups", ["[]", "[[]]", "7", "{student: []}", "{student: {environments: []}}"])
def test_groups_with_mistakes_end_no_reading(lab_with: LabWith, groups: str) -> None:
    path = lab_with(f"{NAMED}people: {{roster: roster.csv}}\ngroups: {groups}\n", "id\nroot\n")
    assert refused(path)[-1] == "$/roster.csv:2:1: a seat never belongs to root"


_SETTINGS = """
image: {pip: all.txt}
seat: {environment: nlp}
people: {roster: roster.csv}
groups: {student: {environments: [default, nlp]}}
"""
FULL = Lab.model_validate(yaml.safe_load(NAMED + _SETTINGS)).model_dump(mode="json", exclude_none=True)


@given(with_lies(FULL))
def test_every_lab_yml_with_a_lie_about_environments_is_a_lab_or_is_refused(lab: Any) -> None:
    with TemporaryDirectory() as folder:
        files = {"lab.yml": json.dumps(lab), "hosts.yml": "all: {}\n", "all.txt": "numpy\n"}
        for name, text in {**files, "roster.csv": "id,environment\nanna,nlp\n"}.items():
            Path(folder, name).write_text(text, errors="surrogatepass")
        write_lock(Path(folder, "lab.lock"), KEPT)
        with suppress(ProblemError):
            assert read_lab(folder).lab.name
