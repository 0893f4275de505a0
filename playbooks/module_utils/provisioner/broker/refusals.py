"""Why the broker refuses a request, in words for the person who asked."""

from __future__ import annotations

from typing import Any, Sequence

from ansible.module_utils.provisioner.base.problem import ProblemError

# Problems of jobs that name other people, their seats or their programs.
NAMING = ("gpu_in_use", "gpu_held", "port_taken", "subnet_taken", "claimed", "fenced", "seat_locked", "foreign_project")
SHOWN = 8  # holders of GPUs in one message


def no_group(name: str) -> ProblemError:
    """Return the problem of a person who is in no group of the lab."""
    return ProblemError(
        "no_group",
        f"{name} is in no group of this lab",
        "a group says how many GPUs a person may have, and for how long",
        "ask the admin of the lab to add the group `student`, or your unix group, to groups in lab.yml",
    )


def without_names(problem: dict[str, str]) -> dict[str, str]:
    """Return a problem of a job without the names of others that it may have."""
    if problem["code"] not in NAMING:
        return problem
    hidden = {
        "what": "something of another person on the node is in the way",
        "fix": "try again in some minutes; if it stays so, ask the admin of the lab, who can see what it is",
    }
    return {**problem, **hidden}


def root_has_no_seat() -> ProblemError:
    """Return the problem of root, which may only look."""
    return ProblemError(
        "not_allowed",
        "root has no seat of its own",
        "a seat runs as the account that asks for it",
        "use your own account; as the admin: provision seats",
    )


def for_root_only(verb: str) -> ProblemError:
    """Return the problem of a person who asks for something that is the admin's."""
    return ProblemError(
        "not_allowed",
        f"only root may ask for {verb}",
        "it is about the seats of all people",
        "use `provision me` for your own seat; as the admin: provision seats",
    )


def released(reason: str) -> ProblemError:
    """Return the problem of a seat whose time the admin has ended."""
    return ProblemError(
        "released",
        f"the admin of the lab has taken your seat back: {reason}",
        "its time cannot be prolonged; it stops soon, and your files stay",
        "save your work; ask the admin of the lab when you may start it again",
    )


def no_seat() -> ProblemError:
    """Return the problem of a person without a seat that could be changed."""
    return ProblemError(
        "no_seat", "you have no seat that runs on this node", "there is nothing to change", "start one: provision me"
    )


def stopping() -> ProblemError:
    """Return the problem of a seat that is being stopped or changed right now."""
    return ProblemError(
        "seat_changing",
        "your seat is being changed or stopped right now",
        "only one change of a seat is made at a time",
        "try again in a minute; `provision me status` shows what is being done",
    )


def other_environment(now: str, wanted: str) -> ProblemError:
    """Return the problem of a running seat with another environment."""
    return ProblemError(
        "other_environment",
        f"your seat runs with the environment {now}, not {wanted}",
        "another environment means new containers: what runs in the old ones ends",
        "save your work, then add --switch",
    )


def restart_needed(what: str, flag: str) -> ProblemError:
    """Return the problem of a change that ends what runs in the seat."""
    return ProblemError(
        "restart_needed",
        f"{what} can only be had by a restart of what runs in your seat",
        "notebooks and programs that run now would end",
        f"save your work, then add {flag}",
    )


def too_many(what: str, wanted: float, most: float, group: str) -> ProblemError:
    """Return the problem of a request above a ceiling of the group. `what`: GPUs or hours."""
    return ProblemError(
        f"too_many_{what.lower()}",
        f"{wanted:g} {what} are more than the group {group} may have: {most:g}",
        "the admin of the lab has set this ceiling for each node",
        f"ask for at most {most:g}",
    )


def more_than_work(wanted: int, most: int) -> ProblemError:
    """Return the problem of who would wait for more GPUs than there are: the place would hold up all behind it."""
    return ProblemError(
        "too_many_gpus",
        f"{wanted} GPUs are more than work now of those that this node lends: {most}",
        "to wait for them would be in vain, and people who wait after you would get no GPU meanwhile",
        f"ask for at most {most}",
    )


def no_such_environment(name: str, known: Sequence[str]) -> ProblemError:
    """Return the problem of an environment that is not published for the group."""
    return ProblemError(
        "no_such_environment",
        f"there is no environment {name!r} for you",
        "only what the admin of the lab has published for your group can be started",
        f"choose with --env one of: {', '.join(known)}" if known else "ask the admin of the lab: none is published",
    )


def no_free_gpu(wanted: int, holders: Sequence[dict[str, Any]]) -> ProblemError:
    """Return the problem of too few free GPUs, with who has the others and until when."""
    lines = [f"{one['name'] or 'somebody'}{_end(one)}" for one in holders[:SHOWN]]
    return ProblemError(
        "no_free_gpu",
        f"{wanted} free GPUs are wanted, and there are fewer; in use: {', '.join(lines) or 'none is known to be free'}",
        "a GPU has one person at a time",
        "wait for one: provision me --wait 2h; or start without a GPU: provision me --gpus 0",
    )


def _end(holder: dict[str, Any]) -> str:
    """Return until when somebody has a GPU, as far as the clock says so."""
    if "state" in holder:
        return " (not by a lease)"
    return f" (until {holder['until']})" if holder["until"] else ""


def somebody_waits() -> ProblemError:
    """Return the problem of a lease that cannot be prolonged because others wait."""
    return ProblemError(
        "somebody_waits",
        "your time cannot be prolonged: somebody waits for a GPU",
        "who waits gets the next GPU that is free",
        "save your work; your files stay, and you can wait for a GPU again",
    )


def too_often(most: int, what: str, period: str) -> ProblemError:
    """Return the problem of a person who asks too often."""
    return ProblemError(
        "too_often",
        f"you have reached the limit of {most} {what} {period}",
        "everybody on the node shares it",
        "wait, then try again",
    )


def node_occupied(most: int) -> ProblemError:
    """Return the problem of a node that starts other seats."""
    return ProblemError(
        "node_occupied",
        f"{most} other seats of the node are being started or changed right now",
        "more at once would slow all of them down",
        "try again in a minute",
    )


def no_room(what: str) -> ProblemError:
    """Return the problem of too many open connections."""
    return ProblemError(
        "too_many_connections",
        f"the broker has too many open connections {what}",
        "it answers a limited number of requests at once",
        "try again in some seconds",
    )
