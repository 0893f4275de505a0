"""What a base image already contains, as reported by scripts that run in it."""

import json

from pydantic import ValidationError

from provisioner.domain.lab.environments import AptPackage
from provisioner.domain.values.measured import Measured, Measurement
from provisioner.domain.values.model import Value
from provisioner.domain.values.problem import Problem, ProblemError

OLDEST_PYTHON = (3, 10)


class BaseFacts(Value):
    """Contents of a base image. `python`: the path of its `python3`. `glibc`: empty with another C library.

    `packages`: the version of each Python package, by its canonical name.
    """

    python: str
    version: str
    machine: str
    glibc: str
    # Debian's packages of image.tools that the base lacks; names alone, as they become words of a Dockerfile.
    missing_tools: tuple[AptPackage, ...] = ()
    jupyter: bool
    sshd: bool
    apt: bool
    packages: dict[str, str] = {}


def parse_base_facts(reference: str, output: str) -> BaseFacts:
    """Parse the output of the script. Raises ProblemError where no lab image can be built from the image."""
    try:
        facts = BaseFacts.model_validate(json.loads(output))
    except (json.JSONDecodeError, ValidationError):
        raise ProblemError(unfit_base(reference, f"its python3 printed {output[-500:]!r}")) from None
    if not facts.sshd and not facts.apt:
        raise ProblemError(unfit_base(reference, "it has no sshd and no apt-get to install it with"))
    if not facts.jupyter and (tuple(map(int, facts.version.split(".")[:2])) < OLDEST_PYTHON or not facts.glibc):
        raise ProblemError(unfit_base(reference, f"Jupyter has no wheels for its Python {facts.version}"))
    return facts


def parse_measurement(output: str) -> Measurement:
    """Parse the output of the script that reads torch. Never raises: an image may print anything."""
    try:
        found = json.loads(output)
        if reason := found.get("unmeasured"):
            return Measurement(reason=str(reason)[:500])
        measured = Measured.model_validate(found)
        if measured.cuda is not None and not measured.targets:
            return Measurement(reason=f"no target was found in the libraries of torch {measured.torch}")
        return Measurement(measured=measured, how=found.get("how"))
    except (ValueError, AttributeError, RecursionError):  # ValidationError is a ValueError
        return Measurement(reason=f"its python3 printed {output[-200:]!r}")


def unfit_base(reference: str, reason: str) -> Problem:
    """Return the problem of an image that no lab image can be built from."""
    return Problem(
        "base_unfit",
        f"no lab image can be built from {reference}: {reason}",
        "a seat needs Jupyter and sshd beside torch, and they cannot be installed in this image",
        (
            "choose another base by image.torch or image.flavour in lab.yml, "
            "or push an image with both to the mirror and set image.complete: true"
        ),
    )
