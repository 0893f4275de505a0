"""What a published lock may do to the machine of its user, and when the user is asked."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from provisioner.adapters.lab.lockfile import fetch_lock, lock_text, read_lock
from provisioner.adapters.lab.signature import sign
from provisioner.adapters.user import account, seat_root
from provisioner.cli.commands import me
from provisioner.cli.exit_codes import DONE
from provisioner.cli.output import Output
from provisioner.domain.lab.lock import LockedEnvironment, Placement
from provisioner.domain.rollout.order import RemovalOrder
from provisioner.domain.rollout.report import NodeRecord
from provisioner.domain.rollout.run_spec import RunSpec
from provisioner.domain.values.node import NodeFacts, RunningSeat
from tests.adapters.lab.sshkeys import AN_ED25519
from tests.adapters.lab.test_lockfile import Published, serving
from tests.adapters.lab.test_signature import allow, make_key
from tests.builders import a_digest, a_lock, a_locked_image, a_node
from tests.cli.running import run
from tests.domain.lab.test_lock_trust import a_certificate, fingerprint


class Machine:
    """The user's machine. `orders`: the registry and CA of each order that a run would have carried out."""

    name = address = "laptop"

    def __init__(self) -> None:
        self.orders: list[tuple[str, str | None]] = []
        self.seats: tuple[RunningSeat, ...] = ()
        self.stopped: list[str] = []
        self.ran: list[tuple[str, str]] = []  # environment and image of these orders

    def hosts(self) -> list[Any]:
        return [self]

    def probe(self, _nodes: Any) -> Mapping[str, NodeFacts]:
        return {self.name: a_node(self.name, seats=self.seats)}

    def execute(self, _run: Any, run_spec: RunSpec, _fleet: Any) -> int:
        orders = [order for seats in run_spec.orders.values() for order in seats.values()]
        self.orders += [(order.registry.address, order.registry.ca) for order in orders]
        self.ran += [(order.seat.environment, order.image.reference) for order in orders]
        return DONE

    def take_down(self, orders: Mapping[str, Mapping[str, RemovalOrder]]) -> Mapping[str, NodeRecord]:
        self.stopped += [order.seat.name for seats in orders.values() for order in seats.values()]
        return {}


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine()
    monkeypatch.setattr(me, "_fleet", lambda _: made)
    monkeypatch.setattr(me, "seat_home", lambda: Path("/home/student"))  # the folder of a test may be in /dev
    monkeypatch.setattr(me, "read_user_keys", lambda: (AN_ED25519,))
    monkeypatch.setattr(me, "recheck_with_lock", lambda *_: None)
    monkeypatch.setattr(me, "execute_locally", made.execute)
    monkeypatch.setattr(me, "_show_urls", lambda *_: None)
    return made


CA = a_certificate("lab")


def published(folder: Path, *, ca: str | None = CA, at: str = "registry.lab:5201", image: str = "lab") -> Path:
    """Write a published lock, in place of an older one."""
    locked = a_locked_image(lab=f"{at}/provisioner/lab@{a_digest(image)}", env={"PYTORCH_VERSION": "2.10.0"})
    path = folder / "lab.lock"
    path.write_text(lock_text(a_lock(locked).model_copy(update={"registry_ca": ca})))
    return path


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def up(source: object, *words: str) -> Result:
    return run("me", "up", "--lock", str(source), *words)


def answering(monkeypatch: pytest.MonkeyPatch, answer: bool) -> list[str]:
    """Put a person before the terminal; return the questions that they are asked."""
    asked: list[str] = []

    def confirm(_output: Output, question: str) -> bool:
        asked.append(question)
        return answer

    monkeypatch.setattr(Output, "can_ask", True)
    monkeypatch.setattr(Output, "confirm", confirm)
    return asked


@pytest.fixture
def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], str]]:
    """Function that publishes tmp_path/lab.lock, and its signature if there is one, and returns the URL."""
    with serving() as address:

        def publish() -> str:
            signature = tmp_path / "lab.lock.sig"
            monkeypatch.setattr(Published, "lock", (tmp_path / "lab.lock").read_bytes())
            monkeypatch.setattr(Published, "signature", signature.read_text() if signature.exists() else "")
            return f"http://{address}/lab.lock"

        yield publish


@pytest.mark.parametrize("words", [(), ("--yes",)])
@pytest.mark.parametrize("registry", ["registry-1.docker.io", "docker.io", "ghcr.io:443"])
def test_no_lock_installs_a_ca_for_a_public_registry(
    machine: Machine, tmp_path: Path, registry: str, words: tuple[str, ...]
) -> None:
    done = up(published(tmp_path, at=registry), *words)
    assert (done.exit_code, machine.orders) == (2, [])
    assert "ca_for_public_registry" in done.stderr


@pytest.mark.parametrize("act", ["up", "status", "down"])
def test_a_lock_over_plain_http_is_refused_without_a_hash_or_a_signature(machine: Machine, act: str) -> None:
    done = run("me", act, "--lock", "http://198.51.100.7/lab.lock", "--yes")
    assert (done.exit_code, machine.orders) == (2, [])
    assert "lock_unprotected" in done.stderr


def test_a_first_use_shows_registry_ca_and_images_and_asks(
    machine: Machine, tmp_path: Path, web: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    published(tmp_path)
    for words in ((), ("--yes",), ("--yes", "--json")):
        done = up(web(), *words)
        assert (done.exit_code, machine.orders) == (2, [])
        assert "lock_not_agreed" in done.stderr + done.stdout
    asked = answering(monkeypatch, answer=False)
    done = up(web(), "--yes")  # nothing verifies this lock, so --yes does not answer this question
    assert (done.exit_code, asked) == (1, ["Use this lock on this machine?"])
    for shown in ("registry.lab:5201", fingerprint("lab"), a_digest("lab")):
        assert shown in done.stderr
    assert not (seat_root() / "lab.lock").exists()
    asked = answering(monkeypatch, answer=True)
    assert up(web()).exit_code == 0
    assert machine.orders == [("registry.lab:5201", CA)]
    assert up(web()).exit_code == 0
    assert run("me", "up").exit_code == 0
    assert len(asked) == 1


def test_yes_agrees_to_a_first_use_of_a_lock_that_something_vouches_for(
    machine: Machine, tmp_path: Path, web: Callable[[], str]
) -> None:
    path = published(tmp_path)
    assert up(path).exit_code == 2
    assert up(web(), "--sha256", "0" * 64, "--yes").exit_code == 2
    assert machine.orders == []
    done = up(web(), "--sha256", sha256(path), "--yes")
    assert done.exit_code == 0
    assert "it has the SHA-256 you gave" in done.stderr
    assert fingerprint("lab") in done.stderr
    assert up(web()).exit_code == 0  # agreed before
    assert len(machine.orders) == 2


@pytest.mark.parametrize(
    ("change", "by_hand"),
    [
        ({"image": "newer"}, False),
        ({"ca": a_certificate("other")}, True),
        ({"ca": None}, True),
        ({"at": "registry.other:5201"}, True),
    ],
)
def test_a_change_of_registry_ca_or_image_is_shown_and_agreed_to(  # noqa: PLR0913, PLR0917  (fixtures)
    machine: Machine,
    tmp_path: Path,
    web: Callable[[], str],
    monkeypatch: pytest.MonkeyPatch,
    change: dict[str, Any],
    by_hand: bool,
) -> None:
    path = published(tmp_path)
    assert up(path, "--yes").exit_code == 0
    changed = published(tmp_path, **change)
    unattended = up(web(), "--yes")
    assert unattended.exit_code == (2 if by_hand else 0)
    assert "The lock has changed" in unattended.stderr
    assert len(machine.orders) == (1 if by_hand else 2)
    (seat_root() / "lab.lock").unlink()
    assert up(published(tmp_path), "--yes").exit_code == 0
    published(tmp_path, **change)
    asked = answering(monkeypatch, answer=False)
    assert up(web(), *(["--yes"] if by_hand else [])).exit_code == 1
    assert asked == ["Use this lock on this machine?"]
    verified = up(web(), "--yes", "--sha256", sha256(changed))
    assert verified.exit_code == 0
    assert "- " in verified.stderr
    assert "+ " in verified.stderr
    assert len(asked) == 1


def test_signers_are_remembered_and_a_lock_without_their_signature_is_refused(
    machine: Machine, tmp_path: Path, web: Callable[[], str]
) -> None:
    key, path = make_key(tmp_path / "ann"), published(tmp_path)
    signers, signature = allow(tmp_path / "signers", key), tmp_path / "lab.lock.sig"
    given = ("--allowed-signers", str(signers), "--yes")
    assert up(web(), *given).exit_code == 2
    signature.write_text(sign(path.read_bytes(), key, may_ask=False))
    done = up(web(), *given)
    assert done.exit_code == 0
    assert "signed by ann@lab.example" in done.stderr
    signers.unlink()
    published(tmp_path, image="forged", at="registry.evil:5201")
    wrong = up(web(), "--yes")
    signature.unlink()
    stripped = up(web(), "--yes", "--sha256", sha256(path))
    assert [wrong.exit_code, stripped.exit_code] == [2, 2]
    assert "signature_wrong" in wrong.stderr
    assert "signature_missing" in stripped.stderr
    assert len(machine.orders) == 1


def test_a_lock_remembered_by_an_older_release_counts_as_not_agreed_to_if_it_is_refused_now(
    machine: Machine, tmp_path: Path
) -> None:
    old = published(tmp_path, at="docker.io").read_text()
    seat_root().mkdir(parents=True)
    (seat_root() / "lab.lock").write_text(old)
    assert run("me", "up", "--yes").exit_code == 2
    assert up(published(tmp_path), "--yes").exit_code == 0
    assert machine.orders == [("registry.lab:5201", CA)]


def test_a_remembered_lock_does_not_hold_who_sits_where(machine: Machine, tmp_path: Path) -> None:
    path = published(tmp_path)
    placed = a_lock(*fetch_lock(str(path)).lock.images).model_copy(update={"people": {"anna": Placement(node="n1")}})
    path.write_text(lock_text(placed))
    assert up(path, "--yes").exit_code == 0
    assert len(machine.orders) == 1
    assert read_lock(seat_root() / "lab.lock") == placed.without_people()


@pytest.mark.parametrize(
    "words", [("--sha256", "abc"), ("--sha256", "0" * 64), ("--lock", "x", "--allowed-signers", "/none")]
)
def test_a_hash_or_signers_that_cannot_be_used_are_a_usage_error(words: tuple[str, ...]) -> None:
    assert run("me", "up", *words).exit_code == 2


def test_down_stops_the_seat_that_the_machine_has(machine: Machine, tmp_path: Path) -> None:
    user = found.pw_name if (found := account()) else "student"
    machine.seats = (RunningSeat(name=f"demo-{user}", lab="other", generation=1, image="x"),)
    assert run("me", "down", "--lock", str(published(tmp_path))).exit_code == 0
    assert machine.stopped == [f"demo_{user}"]


# --- environments of the lock


NLP = a_locked_image(lab=f"registry.lab:5201/provisioner/lab@{a_digest('nlp')}", torch="2.9.1")


def with_environments(folder: Path) -> Path:
    """Write a published lock with the environments default and nlp."""
    path = published(folder, ca=None)
    lock = read_lock(path)
    assert lock is not None
    others = {"nlp": LockedEnvironment(torch="2.9.1", images=(NLP,)), "empty": LockedEnvironment()}
    path.write_text(lock_text(lock.model_copy(update={"environments": others})))
    return path


def own_seat(environment: str) -> RunningSeat:
    user = found.pw_name if (found := account()) else "student"
    return RunningSeat(name=f"demo-{user}", lab="demo", generation=1, image="x", environment=environment)


def test_a_seat_in_another_environment_of_the_lock(machine: Machine, tmp_path: Path) -> None:
    lock = with_environments(tmp_path)
    assert up(lock, "--env", "nlp", "--yes").exit_code == 0
    assert machine.ran == [("nlp", NLP.lab)]


def test_an_environment_that_the_lock_does_not_have_is_exit_2_and_lists_those_that_it_has(
    machine: Machine, tmp_path: Path
) -> None:
    done = up(with_environments(tmp_path), "--env", "nlpp", "--yes")
    assert (done.exit_code, machine.orders) == (2, [])
    assert "choose with --env one of: default, nlp" in done.stderr


@pytest.mark.parametrize(
    ("words", "runs", "asks"),
    [
        ((), "nlp", True),  # its image is another one than that of the lock
        (("--env", "default"), "default", True),
        (("--env", "default", "--switch"), "default", False),
    ],
)
def test_another_environment_of_a_seat_that_runs_is_agreed_to(  # noqa: PLR0913, PLR0917  (fixtures)
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], runs: str, asks: bool
) -> None:
    lock = with_environments(tmp_path)
    assert up(lock, "--env", "nlp", "--yes").exit_code == 0
    machine.seats, machine.ran = (own_seat("nlp"),), []
    asked = answering(monkeypatch, answer=True)
    assert run("me", "up", *words).exit_code == 0
    assert [environment for environment, _ in machine.ran] == [runs]
    assert bool(asked) == asks


def test_environments_and_status_show_which_one_the_seat_has(machine: Machine, tmp_path: Path) -> None:
    lock = with_environments(tmp_path)
    machine.seats = (own_seat("nlp"),)
    done = run("me", "environments", "--lock", str(lock))
    assert done.stdout.splitlines() == [
        "default  PyTorch 2.10.0",
        "nlp  PyTorch 2.9.1; your seat has it",
        "Next: provision me --env NAME",
    ]
    found = json.loads(run("me", "environments", "--lock", str(lock), "--json").stdout)
    assert (found["used"], [one["name"] for one in found["environments"]]) == ("nlp", ["default", "nlp"])
    assert "(environment nlp)" in run("me", "status", "--lock", str(lock)).stdout
    machine.seats = (own_seat("gone"),)
    assert "gone  not in the lock any more; your seat has it" in run("me", "environments", "--lock", str(lock)).stdout
    assert "the image changes" in run("me", "status", "--lock", str(lock)).stdout
    assert run("me", "up", "--lock", str(lock), "--yes").exit_code == 2
