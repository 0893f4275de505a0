from collections.abc import Callable
from datetime import date
from pathlib import Path

import pytest

from provisioner.adapters.lab.directory import read_lab
from provisioner.adapters.lab.keyfiles import keys_of_cell
from provisioner.domain.people.person import Person
from provisioner.domain.values.problem import Problem, ProblemError
from tests.adapters.lab.sshkeys import A_PRIVATE_KEY, AN_ED25519, AN_RSA

GOOD = 'name: demo\nmirror: {address: "m:5000"}\nregistry: {address: "r:5000"}\n'
WITH_PEOPLE = GOOD + "people: {roster: roster.csv}\n"
LabWith = Callable[..., Path]


@pytest.fixture
def lab_with(tmp_path: Path) -> LabWith:
    def write(lab: str, **files: str | bytes) -> Path:
        for name, content in {"lab.yml": lab, "hosts.yml": "all: {}\n", **files}.items():
            (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return tmp_path

    return write


def refused(path: Path) -> list[str]:
    """The problems with $ for the directory of the lab."""
    with pytest.raises(ProblemError) as refusal:
        read_lab(str(path))
    assert refusal.value.ending == "usage"
    return [problem.what.replace(str(path), "$") for problem in refusal.value.problems]


def test_people_are_read_with_their_keys(lab_with: LabWith) -> None:
    roster = f'id,姓名,key,group\r\nanna,安娜,anna.pub,\r\nbob,鲍勃,"{AN_RSA}",staff\r\n'.encode("gbk")
    keys = f"# two\n{AN_ED25519}\n{AN_RSA}\n"
    path = lab_with(WITH_PEOPLE + "groups: {staff: {gpus: 4}}\n", **{"roster.csv": roster, "anna.pub": keys})
    found = read_lab(str(path))
    assert found.people == (
        Person(id="anna", keys=(AN_ED25519, AN_RSA), row=2),
        Person(id="bob", group="staff", keys=(AN_RSA,), row=3),
    )
    assert found.cautions == ()


def test_the_end_of_the_term_is_a_day(lab_with: LabWith) -> None:
    lab, roster = GOOD + "people: {roster: roster.csv, term_ends: DAY}\n", {"roster.csv": "id\nanna\n"}
    people = read_lab(str(lab_with(lab.replace("DAY", "2027-01-31"), **roster))).lab.people
    assert people is not None
    assert people.term_ends == date(2027, 1, 31)
    (mistake,) = refused(lab_with(lab.replace("DAY", "31.1.2027"), **roster))
    assert mistake.startswith("$/lab.yml:4:41: people.term_ends")


def test_cautions_of_the_roster_are_kept(lab_with: LabWith) -> None:
    found = read_lab(str(lab_with(WITH_PEOPLE, **{"roster.csv": "id\n20240001\n240002\n"})))
    assert [caution.code for caution in found.cautions] == ["ids_of_mixed_length"]
    assert len(found.people) == 2


def test_a_lab_without_people_reads_no_roster(lab_with: LabWith) -> None:
    found = read_lab(str(lab_with(GOOD, **{"roster.csv": "nonsense"})))
    assert (found.people, found.cautions, found.lab.people) == ((), (), None)


def test_mistakes_of_lab_yml_keys_and_roster_are_reported_together(lab_with: LabWith) -> None:
    lab = WITH_PEOPLE + "seat: {authorized_keys: [none.pub], uid: 0}\ngroups: {student: {gpus: 1}, staff: {gpu: 4}}\n"
    roster = "id,group,gpus,key\nroot,staff,9,\nanna,,2,anna.pub\nbob,stuff,,\n"
    assert refused(lab_with(lab, **{"roster.csv": roster})) == [
        "$/lab.yml:5:26: $/none.pub: there is no such file",
        "$/lab.yml:5:42: seat.uid: 0: should be greater than or equal to 1000",
        '$/lab.yml:6:38: unknown key "gpu" in "groups.staff"; did you mean "gpus"?',
        "$/roster.csv:2:1: a seat never belongs to root",
        "$/roster.csv:3:3: 2 GPUs are more than the 1 of group student",
        "$/roster.csv:3:4: $/anna.pub: there is no such file",
        '$/roster.csv:4:2: there is no group "stuff"; did you mean "staff"?',
    ]


@pytest.mark.parametrize("groups", ["[student]", "null", "{student: 5, 7: {}}", "{student: {gpus: many}}"])
def test_a_roster_is_read_beside_groups_with_mistakes(lab_with: LabWith, groups: str) -> None:
    path = lab_with(f"{WITH_PEOPLE}groups: {groups}\n", **{"roster.csv": "id,gpus\nanna,64\nroot,\n"})
    *of_lab, of_roster = refused(path)
    assert of_lab
    assert all("lab.yml:5:" in what for what in of_lab)
    assert of_roster == "$/roster.csv:3:1: a seat never belongs to root"


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("none.csv", "$/lab.yml:4:18: $/none.csv: there is no such file"),
        (".", "$/lab.yml:4:18: $: Is a directory"),
        ('""', '$/lab.yml:4:18: people.roster: "" is too short'),
        ("5", '$/lab.yml:4:18: people.roster: 5 is read as a number; write it in quotes: "5"'),
    ],
)
def test_a_roster_that_cannot_be_read_is_refused_where_it_is_named(lab_with: LabWith, name: str, what: str) -> None:
    assert refused(lab_with(f"{GOOD}people: {{roster: {name}}}\n")) == [what]


def test_an_empty_roster_is_refused(lab_with: LabWith) -> None:
    assert refused(lab_with(WITH_PEOPLE, **{"roster.csv": "id\n"})) == ["$/roster.csv: the roster has no person"]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (f'command="/bin/sh" {AN_ED25519}', "p: not an SSH public key"),
        (f"no-pty {AN_RSA}", "p: not an SSH public key"),
        ("ssh-ed25519 AAAA", "p: not an SSH public key"),
        (AN_ED25519.split()[1], "p: not an SSH public key"),
        (AN_ED25519.replace("ssh-ed25519", "ssh-dss"), "p: not an SSH public key"),
        (f"{AN_ED25519} \u0085x", "p: not an SSH public key"),
        ("x" * 5000, "p: not an SSH public key"),
        ("keys\nanna.pub", "p: not an SSH public key"),
        ("a\0b", "p: not an SSH public key"),
        (A_PRIVATE_KEY, "p holds a PRIVATE key"),
        ("private", "p: $/private holds a PRIVATE key"),
        ("options.pub", "p: $/options.pub:1: not an SSH public key"),
        ("no/file.pub", "p: $/no/file.pub: there is no such file"),
    ],
)
def test_a_cell_without_public_keys_is_refused(tmp_path: Path, text: str, what: str) -> None:
    (tmp_path / "private").write_text(A_PRIVATE_KEY)
    (tmp_path / "options.pub").write_text(f'command="/bin/sh" {AN_ED25519}')
    found = keys_of_cell(tmp_path, text, "p")
    assert isinstance(found, Problem)
    assert found.what.replace(str(tmp_path), "$") == what


@pytest.mark.parametrize("text", [AN_ED25519, AN_RSA.rsplit(" ", 5)[0], "ssh keys.pub", "ssh-keys.pub"])
def test_a_cell_holds_a_key_or_names_a_file(tmp_path: Path, text: str) -> None:
    for name in ("ssh keys.pub", "ssh-keys.pub"):
        (tmp_path / name).write_text(AN_RSA)
    assert keys_of_cell(tmp_path, text, "p") == ((AN_RSA,) if text.endswith(".pub") else (text,))


def test_a_cell_holds_several_keys_one_a_line(tmp_path: Path) -> None:
    assert keys_of_cell(tmp_path, f"{AN_RSA}\r\n{AN_ED25519}", "p") == (AN_RSA, AN_ED25519)
