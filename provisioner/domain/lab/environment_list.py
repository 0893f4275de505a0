"""The environments of a lab: what lab.yml names, and what lab.lock has of it."""

from typing import Literal

from pydantic import Field

from provisioner.domain.lab.environments import DEFAULT_ENVIRONMENT
from provisioner.domain.lab.lab import Lab
from provisioner.domain.lab.lock import LockedEnvironment, Lockfile
from provisioner.domain.values.model import Document, Value
from provisioner.domain.values.problem import Problem
from provisioner.domain.values.spelling import did_you_mean

_SHOWN = 5  # names in a sentence

ENVIRONMENTS_SCHEMA: Literal["provisioner/environments/1"] = "provisioner/environments/1"


class EnvironmentEntry(Value):
    """An environment. `in_lab`: lab.yml names it. `locked`: lab.lock has it; the other fields are what it has there.

    `images`: references with tags. `nodes`: those with an image, `unserved`: those that may run it and have none.
    `kept_from`: what it was before an upgrade kept it; empty: nothing was kept.
    """

    name: str
    in_lab: bool
    locked: bool
    torch: str | None = None
    images: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()
    unserved: tuple[str, ...] = ()
    kept_from: str = ""


class EnvironmentList(Document):
    """The environments of a lab, `default` first, those of lab.yml before the others."""

    schema_: Literal["provisioner/environments/1"] = Field(default=ENVIRONMENTS_SCHEMA, alias="schema")
    lab: str
    environments: tuple[EnvironmentEntry, ...]


def list_environments(lab: Lab, lock: Lockfile | None) -> EnvironmentList:
    """Return the environments of lab.yml in its order, then those that only the lock has, by name."""
    locked = {} if lock is None else lock.all_environments
    names = dict.fromkeys((*lab.all_environments, *sorted(locked)))
    return EnvironmentList(lab=lab.name, environments=tuple(_entry(name, lab, locked.get(name)) for name in names))


def _entry(name: str, lab: Lab, found: LockedEnvironment | None) -> EnvironmentEntry:
    in_lab = name in lab.all_environments
    if found is None:
        return EnvironmentEntry(name=name, in_lab=in_lab, locked=False)
    return EnvironmentEntry(
        name=name,
        in_lab=in_lab,
        locked=True,
        torch=found.torch,
        images=tuple(image.reference for image in found.images),
        nodes=tuple(sorted(found.nodes)),
        unserved=found.unserved,
        kept_from=found.kept_from,
    )


def removal_problem(name: str, lab: Lab, lock: Lockfile, users: tuple[str, ...]) -> Problem | None:
    """Return why an environment cannot be removed from the lock, None where it can. `users`: what names it."""
    kept = "only what an upgrade has kept is removed by name: the others follow lab.yml"
    if name == DEFAULT_ENVIRONMENT:
        return Problem("is_default", "every lab has the environment default", kept, "change `image` in lab.yml instead")
    if name in lab.environments:
        fix = "take it out of environments in lab.yml, then: provision lock LAB"
        return Problem("in_lab_yml", f"lab.yml names the environment {name}", kept, fix)
    if name not in lock.environments:
        what = f'the lock has no environment "{name}"{did_you_mean(name, lock.environments)}'
        return Problem("unknown_environment", what, kept, "see provision environments list LAB")
    if not lock.environments[name].kept_from:
        what = f"{name} is not kept: lab.yml does not name it any more"
        return Problem("not_kept", what, kept, "it goes with the next lock: provision lock LAB")
    if users:
        return _in_use(name, users)
    return None


def _in_use(name: str, users: tuple[str, ...]) -> Problem:
    more = f" and {len(users) - _SHOWN} more" if len(users) > _SHOWN else ""
    return Problem(
        "environment_in_use",
        f"{name} is named by {', '.join(users[:_SHOWN])}{more}",
        "their seats would have no image",
        "give them another environment in lab.yml or in the roster, roll out, and remove it then",
    )
