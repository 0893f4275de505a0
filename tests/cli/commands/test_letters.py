"""`provision letters`: which files are written, for whom, and who can read them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from provisioner.domain.people.person import Person
from provisioner.domain.rollout.status import SeatStatus
from provisioner.domain.values.problem import Problem
from tests.builders import a_node, self_service_facts
from tests.cli.commands.people import LAB, RosterLab
from tests.cli.running import document, run
from tests.domain.letters import HOST_KEY, a_seat_status

ANNA, LI, BOB = Person(id="anna"), Person(id="li.lei@example.edu"), Person(id="bob")
LI_SEAT = a_seat_status(node="gpu2", person=LI.id, seat="ml__li-lei-example-e-0123456789")
COMMON = ["letters-ml/everybody.self-service.txt", "letters-ml/everybody.self-service.html"]
LI_FILE = "li-lei-example-e.9cd1d3804e"


def test_each_person_gets_two_files_that_only_the_admin_can_read(roster_lab: RosterLab) -> None:
    roster_lab.report("letters", [ANNA, LI], a_seat_status(), LI_SEAT)
    result = run("letters", str(roster_lab.path), "--json")
    folder = Path("letters-ml")
    found = document(result)
    assert (result.exit_code, found["schema"], found["without"], found["old"]) == (0, "provisioner/letters/1", {}, [])
    assert found["letters"] == {
        "anna": ["letters-ml/anna.txt", "letters-ml/anna.html"],
        LI.id: [f"letters-ml/{LI_FILE}.txt", f"letters-ml/{LI_FILE}.html"],
    }
    written = sorted(folder.iterdir())
    assert [str(path) for path in written] == sorted(path for paths in found["letters"].values() for path in paths)
    assert {path.stat().st_mode & 0o777 for path in written} == {0o600}
    assert folder.stat().st_mode & 0o777 == 0o700


def test_letter_has_the_jump_of_its_own_node_without_the_admins_account(roster_lab: RosterLab) -> None:
    roster_lab.report("letters", [ANNA, LI], a_seat_status(), LI_SEAT)
    assert run("letters", str(roster_lab.path), "--to", "out", "--contact", "李雷").exit_code == 0
    anna, li = (Path("out", f"{name}.txt").read_text() for name in ("anna", LI_FILE))
    assert "      ProxyJump jump.lab\n" in anna
    assert "admin@" not in anna
    assert "ProxyJump" not in li
    assert "Ask: 李雷\n" in li
    assert HOST_KEY in li


def test_a_person_without_a_seat_is_listed_with_the_reason_and_the_others_get_their_letter(
    roster_lab: RosterLab,
) -> None:
    roster_lab.report("letters", [ANNA, LI, BOB], a_seat_status(), LI_SEAT.model_copy(update={"access": None}))
    result = run("letters", str(roster_lab.path), "--json")
    found = document(result)
    assert (result.exit_code, list(found["letters"])) == (1, ["anna"])
    assert {person: problem["code"] for person, problem in found["without"].items()} == {
        LI.id: "seat_not_there",
        "bob": "no_seat",
    }
    assert sorted(path.name for path in Path("letters-ml").iterdir()) == ["anna.html", "anna.txt"]


def test_a_host_key_with_a_second_line_gets_no_letter(roster_lab: RosterLab) -> None:
    seat = a_seat_status()
    assert seat.access
    hostile = seat.access.model_copy(update={"host_key": f"{HOST_KEY}\nml_bob {HOST_KEY}"})
    roster_lab.report("letters", [ANNA], a_seat_status(access=hostile))
    result = run("letters", str(roster_lab.path))
    assert (result.exit_code, "unsafe_letter" in result.stdout) == (1, True)
    assert not list(Path("letters-ml").iterdir())


def test_old_letters_are_listed_and_kept_and_others_replaced(roster_lab: RosterLab) -> None:
    folder = Path("letters-ml")
    folder.mkdir()
    for name in ("anna.txt", "bob.txt", "eve.txt", "eve.html", "notes.md"):
        (folder / name).write_text("old")
    roster_lab.report("letters", [ANNA, BOB], a_seat_status())
    result = run("letters", str(roster_lab.path), "--json")
    assert document(result)["old"] == ["letters-ml/eve.html", "letters-ml/eve.txt"]
    assert {path.name for path in folder.iterdir() if path.read_text() == "old"} == {
        "bob.txt",
        "eve.txt",
        "eve.html",
        "notes.md",
    }
    assert (folder / "anna.txt").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(("words", "code"), [([], 1), (["--limit", "gpu1"], 0)])
def test_with_a_limit_only_people_on_those_nodes_are_expected(
    roster_lab: RosterLab, words: list[str], code: int
) -> None:
    roster_lab.report("letters", [ANNA, BOB], a_seat_status())
    assert run("letters", str(roster_lab.path), *words).exit_code == code


def test_a_node_that_did_not_answer_is_named(roster_lab: RosterLab) -> None:
    down = Problem("unreachable", "gpu2: no answer", "why", "fix")
    roster_lab.report("letters", [ANNA, BOB], a_seat_status(), SeatStatus(node="gpu2", seat=None, problems=(down,)))
    result = run("letters", str(roster_lab.path))
    assert (result.exit_code, "unreachable  gpu2" in result.stdout) == (1, True)
    found = document(run("letters", str(roster_lab.path), "--json"))
    assert found["unread"] == {"gpu2": [down.model_dump()]}


def test_no_token_is_in_a_letter(roster_lab: RosterLab) -> None:
    """A token comes with the URL or nowhere: a URL that has one is refused."""
    seat, secret = a_seat_status(node="gpu2"), "0123456789abcdef" * 4
    assert seat.access
    url = f"http://198.18.0.11:22001/lab?token={secret}"
    leaking = seat.access.model_copy(update={"jupyter": url, "tunnel": ""})
    roster_lab.report(
        "letters", [ANNA, LI], seat.model_copy(update={"access": leaking}), LI_SEAT.model_copy(update={"image": secret})
    )
    result = run("letters", str(roster_lab.path))
    texts = [path.read_text() for path in Path("letters-ml").iterdir()]
    assert (result.exit_code, len(texts)) == (1, 2)
    assert not [text for text in texts if secret in text]
    assert secret[:4] not in result.output


def test_a_lab_without_a_roster_is_a_usage_error(roster_lab: RosterLab) -> None:
    roster_lab.report("letters", [])
    result = run("letters", str(roster_lab.path), "--json")
    assert (result.exit_code, document(result)["problems"][0]["code"]) == (2, "no_roster")
    assert not Path("letters-ml").exists()


def test_a_folder_that_cannot_be_made_is_a_usage_error(roster_lab: RosterLab) -> None:
    roster_lab.report("letters", [ANNA], a_seat_status())
    result = run("letters", str(roster_lab.path), "--to", "/proc/letters", "--json")
    assert (result.exit_code, document(result)["problems"][0]["code"]) == (2, "unwritable")


# --- the letter to everybody


@pytest.fixture
def served(roster_lab: RosterLab, monkeypatch: pytest.MonkeyPatch) -> RosterLab:
    """A lab with self-service on both nodes, gpu1 with a host key that the control machine knows."""

    def known(_: object, nodes: Sequence[str]) -> Mapping[str, str]:
        return {node: HOST_KEY for node in nodes if node == "gpu1"}

    monkeypatch.setattr("provisioner.cli.commands.letters.known_host_keys", known)
    (roster_lab.path / "lab.yml").write_text(f"{LAB}self_service: {{unix_group: lab-students}}\n")
    for number in (1, 2):
        facts = a_node(f"gpu{number}", self_service=self_service_facts(), addresses=(f"198.18.0.1{number}",))
        roster_lab.facts[facts.name] = facts
    roster_lab.report("letters", [])
    return roster_lab


def test_a_lab_with_self_service_and_without_a_roster_has_one_letter(served: RosterLab) -> None:
    result = run("letters", str(served.path), "--contact", "李雷", "--json")
    found = document(result)
    assert (result.exit_code, found["letters"], found["without"], found["old"]) == (0, {}, {}, [])
    assert found["self_service"] == {"files": COMMON, "nodes": ["gpu1", "gpu2"], "without": {}}
    assert sorted(map(str, Path("letters-ml").iterdir())) == sorted(COMMON)
    assert {Path(path).stat().st_mode & 0o777 for path in COMMON} == {0o600}
    text = Path(COMMON[0]).read_text()
    assert "    Host gpu1 198.18.0.11\n      HostName 198.18.0.11\n      ProxyJump jump.lab\n\n" in text
    assert f"    198.18.0.11 {HOST_KEY}\n" in text
    assert "198.18.0.12 ssh-ed25519" not in text
    assert "Ask: 李雷\n" in text
    assert "admin@" not in text


def test_a_lab_with_both_has_letters_to_people_and_the_one_to_everybody(served: RosterLab) -> None:
    served.report("letters", [ANNA], a_seat_status())
    result = run("letters", str(served.path), "--json")
    found = document(result)
    assert (result.exit_code, list(found["letters"]), found["self_service"]["files"]) == (0, ["anna"], COMMON)
    shown = " ".join(run("letters", str(served.path)).stdout.split())
    everybody = "The letter to everybody, with 2 of 2 nodes with self-service: everybody.self-service in letters-ml."
    assert shown == f"1 of 1 letter in letters-ml. {everybody}"


def test_nodes_without_a_running_broker_are_left_out_and_named(served: RosterLab) -> None:
    served.facts["gpu1"] = a_node("gpu1", self_service=self_service_facts(runs=False))
    result = run("letters", str(served.path), "--json")
    found = document(result)["self_service"]
    assert (result.exit_code, found["nodes"], list(found["without"])) == (1, ["gpu2"], ["gpu1"])
    assert found["without"]["gpu1"]["code"] == "broker_down"
    assert "gpu1" not in Path(COMMON[0]).read_text()
    assert "broker_down  gpu1" in run("letters", str(served.path)).stdout


def test_without_any_node_to_name_an_earlier_letter_stays_and_is_not_old(served: RosterLab) -> None:
    assert run("letters", str(served.path)).exit_code == 0
    down = Problem("unreachable", "gpu1: no answer", "why", "fix", "gpu1")
    served.facts |= {"gpu1": down, "gpu2": a_node("gpu2")}
    result = run("letters", str(served.path), "--json")
    found = document(result)
    assert (result.exit_code, found["old"], found["self_service"]["files"]) == (1, [], [])
    codes = {node: problem["code"] for node, problem in found["self_service"]["without"].items()}
    assert codes == {"gpu1": "unreachable", "gpu2": "no_self_service"}
    assert "198.18.0.12" in Path(COMMON[0]).read_text()


def test_only_nodes_that_are_to_have_self_service_are_expected(served: RosterLab) -> None:
    (served.path / "lab.yml").write_text(f"{LAB}self_service: {{nodes: gpu2, unix_group: lab-students}}\n")
    served.facts["gpu1"] = a_node("gpu1")
    result = run("letters", str(served.path), "--json")
    assert (result.exit_code, document(result)["self_service"]["nodes"]) == (0, ["gpu2"])


def test_a_pattern_that_no_node_matches_is_a_letter_that_is_missing(served: RosterLab) -> None:
    (served.path / "lab.yml").write_text(f"{LAB}self_service: {{nodes: 'a*', unix_group: lab-students}}\n")
    result = run("letters", str(served.path))
    assert (result.exit_code, "0 of 0 nodes with self-service: not written" in result.stdout) == (1, True)


def test_a_limit_without_any_such_node_leaves_the_letter_to_everybody_out(served: RosterLab) -> None:
    (served.path / "lab.yml").write_text(f"{LAB}self_service: {{nodes: 'a*', unix_group: lab-students}}\n")
    result = run("letters", str(served.path), "--limit", "gpu1", "--json")
    assert (result.exit_code, document(result)["self_service"]) == (0, None)


def test_the_letter_of_a_lab_that_has_self_service_no_longer_is_old(roster_lab: RosterLab) -> None:
    Path("letters-ml").mkdir()
    Path(COMMON[0]).write_text("old")
    roster_lab.report("letters", [ANNA], a_seat_status())
    found = document(run("letters", str(roster_lab.path), "--json"))
    assert (found["old"], found["self_service"]) == (COMMON[:1], None)
