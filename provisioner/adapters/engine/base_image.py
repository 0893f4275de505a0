"""What a base image has already, as a program inside it says."""

import json

from pydantic import ValidationError

from provisioner.domain.values.model import Value
from provisioner.domain.values.problem import Problem, ProblemError

OLDEST_PYTHON = (3, 10)


class BaseFacts(Value):
    """`python` is the path of the image's own `python3`; `glibc` is empty where it has another C library."""

    python: str
    version: str
    machine: str
    glibc: str
    jupyter: bool
    sshd: bool
    apt: bool

    @property
    def complete(self) -> bool:
        return self.jupyter and self.sshd


def read(reference: str, output: str) -> BaseFacts:
    """Raises ProblemError where the image is none that a lab image can be made of."""
    try:
        facts = BaseFacts.model_validate(json.loads(output))
    except (json.JSONDecodeError, ValidationError):
        raise ProblemError(unfit(reference, f"its python3 said: {output[-500:]!r}")) from None
    if not facts.sshd and not facts.apt:
        raise ProblemError(unfit(reference, "it has no sshd and no apt-get to install it with"))
    if not facts.jupyter and (tuple(map(int, facts.version.split(".")[:2])) < OLDEST_PYTHON or not facts.glibc):
        raise ProblemError(unfit(reference, f"Jupyter has no wheels for its Python {facts.version}"))
    return facts


def unfit(reference: str, seen: str) -> Problem:
    return Problem(
        "base_unfit",
        f"{reference} cannot be made a lab image: {seen}",
        "a seat needs Jupyter and sshd beside torch, and this image has neither them nor what installs them",
        (
            "choose another base by image.torch or image.flavour in lab.yml, "
            "or put an image with both on the mirror and set image.complete: true"
        ),
    )
