"""Environments that an upgrade has kept: old images under a name of their own, with the permission of their origin."""

from collections.abc import Iterable, Mapping, Sequence

from provisioner.domain.lab.environments import DEFAULT_ENVIRONMENT
from provisioner.domain.lab.lock import LockedEnvironment, Lockfile
from provisioner.domain.values.problem import Problem


def kept_environments(lock: Lockfile | None) -> dict[str, LockedEnvironment]:
    """Return the kept environments of a lock by name, in the order of their names."""
    found = {} if lock is None else lock.environments
    return {name: found[name] for name in sorted(found) if found[name].kept_from}


def allowed_environments(names: Sequence[str], lock: Lockfile | None) -> tuple[str, ...]:
    """Return what a group with these environments may have: them, then what was kept from one of them, by name."""
    kept = kept_environments(lock).items()
    return tuple(dict.fromkeys((*names, *(name for name, environment in kept if environment.kept_from in names))))


def name_origins(names: Iterable[str], lock: Lockfile | None) -> dict[str, str]:
    """Return every environment with the name that its permission follows: `names` of lab.yml, then the kept ones."""
    kept = {name: environment.kept_from for name, environment in kept_environments(lock).items()}
    return {name: name for name in names} | kept


def keep_default(lock: Lockfile, name: str) -> dict[str, LockedEnvironment]:
    """Return the kept environments of a lock, and its environment `default` under this name."""
    return kept_environments(lock) | {name: lock.default.model_copy(update={"kept_from": DEFAULT_ENVIRONMENT})}


def keep_problem(name: str, names: Iterable[str], lock: Lockfile) -> Problem | None:
    """Return why `default` cannot be kept under this name; None where it can. `names`: those of lab.yml."""
    if name in names:
        taken = f"lab.yml has an environment {name}"
    elif name in lock.environments:
        taken = (
            f"lab.lock has an environment {name}{' that was kept before' if lock.environments[name].kept_from else ''}"
        )
    else:
        return None
    return Problem(
        "name_taken",
        f"--keep-as {name}: {taken}",
        "seats name their environment: those of the one would get the image of the other",
        "choose another name, such as 2026s; for what is kept: provision environments list LAB",
    )


def elsewhere_problems(kept: Mapping[str, LockedEnvironment], registry: str) -> list[Problem]:
    """Return a problem for each kept environment with images in another registry than the lab's, HOST[:PORT]."""
    places = {
        name: sorted({image.lab.partition("/")[0] for image in environment.images} - {registry})
        for name, environment in kept.items()
    }
    return [
        Problem(
            "kept_elsewhere",
            f"the images of the kept environment {name} lie in {', '.join(found)}, and lab.yml names {registry}",
            "a lab has one registry: nodes trust the certificate of that one, and are logged in there",
            f"name the registry of before in lab.yml, or give this one up: provision environments remove LAB {name}",
        )
        for name, found in places.items()
        if found
    ]
