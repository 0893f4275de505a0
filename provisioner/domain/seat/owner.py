"""The owner of a person's seat: the account on the node, or the number that the roster gives to who has none."""

from provisioner.domain.lab.groups import DEFAULT_GROUP, disk_limit_of, limits_of, with_default_group
from provisioner.domain.lab.lab import Lab
from provisioner.domain.lab.lock import Placement
from provisioner.domain.people.names import login_name
from provisioner.domain.people.person import Person
from provisioner.domain.seat.seat import SeatOwner, person_seat_name_on
from provisioner.domain.values.allocation import folder_name
from provisioner.domain.values.node import Account, NodeFacts
from provisioner.domain.values.problem import Problem

_FIRST_UID = 1000  # of people; lower numbers are accounts of the system


def person_owner(lab: Lab, facts: NodeFacts, person: Person, place: Placement) -> SeatOwner | Problem:
    """Return who a person is on their node, or why that is not known or not allowed: nothing changes for them then."""
    account = facts.accounts.get(person.id)
    if account is None:
        return _not_looked_up(facts, person)
    identity = _identity(facts, person, account)
    if isinstance(identity, Problem):
        return identity
    name, group = person_seat_name_on(facts, lab.name, person.id), group_of(lab, person, account)
    running = facts.seat(name)
    # A stopped seat does not prevent a new account: the owner of its home is checked on the node.
    for before in (place.uid, running.uid if running and not running.is_down else None):
        if before not in {None, identity[0]}:
            return _identity_changed(facts, person, f"{before}", f"{identity[0]}")
    if problem := _over_ceiling(lab, facts, person, group):
        return problem
    return SeatOwner(
        name=name,
        user=login_name(person.id),
        uid=identity[0],
        gid=identity[1],
        home=f"{lab.seat.homes}/{folder_name(person.id)}",
        keys=person.keys,
        limits=limits_of(lab, group),
        person=person.id,
        environment=person.environment,
        disk_limit=disk_limit_of(lab, group),
    )


def group_of(lab: Lab, person: Person, account: Account) -> str:
    """Return the group of a person: of the roster, else the first that a unix group of the account names."""
    found = (name for name, group in lab.groups.items() if group.unix is not None and group.unix in account.groups)
    return person.group or next(found, DEFAULT_GROUP)


def _identity(facts: NodeFacts, person: Person, account: Account) -> tuple[int, int] | Problem:
    """Return uid and gid."""
    if account.uid is None or account.gid is None:
        return (person.uid, person.uid) if person.uid is not None else _no_account(facts, person)
    if person.uid is not None:
        return Problem(
            "uid_of_account",
            f"row {person.row} of the roster gives {person.id} the uid {person.uid}, but {facts.name} has an account"
            f" of this name, with uid {account.uid}",
            "files in the home would belong to two numbers",
            "leave the column uid empty in the row of a person with an account",
            facts.name,
        )
    if account.uid < _FIRST_UID or account.gid == 0:
        return Problem(
            "system_account",
            f"{person.id} (row {person.row} of the roster) is an account of the system on {facts.name}: uid"
            f" {account.uid}, gid {account.gid}",
            "a seat never runs as root or as an account of the system",
            "remove the row, or name another account in it",
            facts.name,
        )
    return account.uid, account.gid


def _not_looked_up(facts: NodeFacts, person: Person) -> Problem:
    reason = facts.absent_because.get("accounts", "the node did not say")
    return Problem(
        "account_unknown",
        f"{facts.name} could not look up the account {person.id}: {reason}",
        "without it the uid of their seat is not known; their seat stays as it is",
        f"try on the node: getent passwd {person.id}; when the directory of accounts answers again, run the command"
        " again",
        facts.name,
    )


def _no_account(facts: NodeFacts, person: Person) -> Problem:
    return Problem(
        "account_unknown",
        f"{facts.name} has no account {person.id} (row {person.row} of the roster)",
        "a seat runs with the uid of an account, or with the one that the roster gives; their seat stays as it is",
        "create the account on the node, or give a uid from 70000 to 99999 in the row",
        facts.name,
    )


def _identity_changed(facts: NodeFacts, person: Person, before: str, now: str) -> Problem:
    return Problem(
        "identity_changed",
        f"{person.id} had uid {before} and has {now} on {facts.name} now",
        "the files in their home belong to the uid of before: with another one, the seat could not read them",
        f"give the account its uid {before} again; for a new account remove the row, roll out, and add it again",
        facts.name,
    )


def _over_ceiling(lab: Lab, facts: NodeFacts, person: Person, group: str) -> Problem | None:
    most = with_default_group(lab.groups).get(group)
    if most is None or most.gpus is None or person.gpus == "shared" or person.gpus <= most.gpus:
        return None
    return Problem(
        "too_many_gpus",
        f"row {person.row} of the roster gives {person.id} {person.gpus} cards; the group {group} may have {most.gpus}",
        "groups have a ceiling of cards on each node, so that there is one left for others",
        f"lower gpus in that row, or raise groups.{group}.gpus in lab.yml",
        facts.name,
    )
