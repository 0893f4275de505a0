"""Why a person has no place, or none that can be used, in words for the admin."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from functools import lru_cache

from provisioner.domain.lab.lock import Placement
from provisioner.domain.people.occupancy import NodeRoom
from provisioner.domain.people.person import Person
from provisioner.domain.values.problem import Problem

_SHOWN = 3  # names in one sentence
_LONGEST = 60  # characters of a name that is compared with others


def identity_changed(person: Person, held: Placement) -> Problem:
    """The row gives another uid than that of the person's account."""
    return Problem(
        "identity_changed",
        f"row {person.row} of the roster gives {person.id} the uid {person.uid}, but their account has {held.uid}",
        "the files in their home belong to the uid of before: with another one, the seat could not read them",
        f"write {held.uid} in the column uid; for a new account remove the row, roll out, and add the row again",
        held.node,
    )


def no_such_node(person: Person, names: tuple[str, ...]) -> Problem:
    """The row allows none of the nodes that are called so."""
    return Problem(
        "no_such_node",
        f'row {person.row} of the roster: no node of the inventory matches "{person.node}"'
        + _did_you_mean(person.node[:_LONGEST], names),
        f"{person.id} is placed only on a node that the row allows",
        "write a name of the inventory in the column node, or a pattern such as gpu*",
    )


@lru_cache(maxsize=64)  # often one wrong name stands in all rows
def _did_you_mean(wrong: str, names: tuple[str, ...]) -> str:
    near = get_close_matches(wrong, names, n=1)
    return f'; did you mean "{near[0]}"?' if near else ""


def not_placed_yet(person: Person, held: Placement | None, silent: Sequence[str]) -> Problem:
    """A node may have room for the person, but did not answer."""
    return Problem(
        "not_placed_yet",
        f"{_named(person)} asks for {_wanted(person)}; {_listed(silent)} may have room, but did not answer"
        + _as_it_is(held),
        "a place is chosen by the cards that a node reports",
        "run the command again once these nodes answer" + _or_another_node(person),
        silent[0] if len(silent) == 1 else None,
    )


def no_free_gpu(person: Person, held: Placement | None, allowed: Iterable[NodeRoom]) -> Problem:
    """No node that the row allows has as many free cards as the person asks for."""
    best = max(allowed, key=lambda node: node.spare_for(person))
    return Problem(
        "no_free_gpu",
        f"{_named(person)} asks for {_wanted(person)}; the most that are free on a node are"
        f" {best.spare_for(person)}, on {best.name}" + _as_it_is(held),
        "an own card has one user, and where people share cards, one stays for them",
        "lower gpus in this row of the roster or in others" + _or_another_node(person),
        best.name,
    )


def no_shared_gpu(person: Person, nodes: Sequence[NodeRoom]) -> Problem:
    """The nodes have no card to share: on the person's own node, or on those that the row allows."""
    names = [node.name for node in nodes]
    return Problem(
        "no_shared_gpu",
        f"{_named(person)} asks for cards to share, and none is left on {_listed(names)}",
        "people share the cards of their node that no person has alone",
        "lower gpus in the rows of those who have cards there" + _or_another_node(person),
        names[0] if len(names) == 1 else None,
    )


def no_environment(person: Person, held: Placement | None, nodes: Sequence[NodeRoom]) -> Problem:
    """No node that the row allows has an image of the person's environment."""
    return Problem(
        "environment_unserved",
        f"{_named(person)} is to have the environment {person.environment}, which has no image on"
        f" {_listed([node.name for node in nodes])}" + _as_it_is(held),
        "a seat runs the image that the lock has for its environment and its node",
        "name another environment in this row of the roster, or choose a torch in lab.yml that runs there"
        + _or_another_node(person),
    )


def node_gone(person: Person, held: Placement) -> Problem:
    """The person's node is no longer in the inventory."""
    return Problem(
        "node_gone",
        f"the seat of {_named(person)} is on {held.node}, which is not in the inventory",
        "their home may be there: a person is moved only when the admin has decided it",
        f"add {held.node} to the inventory again, or name another node in the row of the roster",
        held.node,
    )


def gpu_gone(person: Person, held: Placement, gone: Sequence[str]) -> Problem:
    """The node answered, but has no longer all cards of the person."""
    return Problem(
        "gpu_gone",
        f"{held.node} no longer offers {_listed(gone)} of {_named(person)}",
        "the card has a fault, was replaced or is split, and another card is given only on request",
        f"repair the card; for another one set gpus to {len(held.gpus) - len(gone)} in the row of the roster, roll out,"
        f" and set it to {person.gpus} again",
        held.node,
    )


def moves_node(person: Person, held: Placement, place: Placement) -> Problem:
    """A change of the row moves the person to another node."""
    return _moves(person, held, place, f", because of row {person.row} of the roster", "before the rollout")


def is_moved(person: Person, held: Placement, place: Placement) -> Problem:
    """The admin moves the person to another node."""
    return _moves(person, held, place, "", "before you agree")


def _moves(person: Person, held: Placement, place: Placement, because: str, when: str) -> Problem:
    return Problem(
        "moves_node",
        f"{person.id} moves from {held.node} to {place.node}{because}",
        f"a home on the disk of {held.node} does not move along",
        f"copy their home to {place.node} {when}, unless both mount it from the same server",
        place.node,
    )


def row_names_another(person: Person, node: str) -> Problem:
    """The row does not allow the node that the person is to be moved to."""
    return Problem(
        "row_names_another_node",
        f'row {person.row} of the roster allows {person.id} only "{person.node}", which {node} is not',
        "the row counts: the next rollout would move them back",
        f"write {node} in the column node of that row and run `provision rollout`; or empty it and move them then",
        node,
    )


def no_place(person: Person) -> Problem:
    """The person has no place yet that could be stopped or started."""
    return Problem(
        "no_place",
        f"{person.id} has no place yet",
        "a stop is remembered with the place of a person",
        "see why with `provision plan`; `provision rollout` gives them a place",
    )


def no_room_there(person: Person, held: Placement | None, room: NodeRoom) -> Problem:
    """The node answered, and has not what the person asks for."""
    return no_shared_gpu(person, [room]) if person.gpus == "shared" else no_free_gpu(person, held, [room])


def _wanted(person: Person) -> str:
    if person.gpus == "shared":
        return "cards to share"
    return f"{person.gpus} own card{'' if person.gpus == 1 else 's'}" if person.gpus else "a place"


def _as_it_is(held: Placement | None) -> str:
    return f"; their place on {held.node} stays as it is" if held else ""


def _or_another_node(person: Person) -> str:
    return ", or allow another node in the row" if person.node else ""


def _named(person: Person) -> str:
    """Return the id with its row: what to do is the same text for all people, so that it is shown once."""
    return f"{person.id} (row {person.row})"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
