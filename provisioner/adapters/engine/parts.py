"""What a lab image adds to its base: only what the base lacks, and what its environment asks for."""

from collections.abc import Mapping
from typing import NamedTuple

from provisioner.adapters.engine.base_image import BaseFacts, unfit_base
from provisioner.domain.lab.environments import ImageSettings
from provisioner.domain.values.problem import Problem, ProblemError

FONT = "fonts-wqy-microhei"
_PROGRAMS = "/opt/provisioner/{}/bin"


class Parts(NamedTuple):
    """The parts of a Dockerfile; the names are those of its template.

    `system`: Debian packages of sshd and the tools. `apt`: those of the environment. `pip`: it has a course's wheels.
    `font`: matplotlib is set to the Chinese font. `lang`: LANG is set to C.UTF-8.
    """

    jupyter: bool
    system: tuple[str, ...]
    apt: tuple[str, ...]
    pip: bool
    font: bool
    lang: bool

    @property
    def is_nothing(self) -> bool:
        """Whether the base has everything. A base that only lacks LANG is left as it is."""
        return not (self.jupyter or self.system or self.apt or self.pip)

    @property
    def programs(self) -> tuple[str, ...]:
        """The folders that come first on PATH."""
        return tuple(_PROGRAMS.format(name) for name, has in (("env", self.jupyter), ("course", self.pip)) if has)


def choose_parts(reference: str, settings: ImageSettings, base: BaseFacts, env: Mapping[str, str]) -> Parts:
    """Return what to add to a base with the variables `env`. Without apt-get, tools are left out.

    Raises ProblemError where the environment asks for packages and the base has no apt-get.
    """
    apt = normal_names(settings)
    if apt and not base.apt:
        raise ProblemError(unfit_base(reference, f"it has no apt-get to install {', '.join(apt)} with"))
    tools = base.missing_tools if settings.tools and base.apt else ()
    has_font = FONT not in base.missing_tools or FONT in tools
    return Parts(
        jupyter=not base.jupyter,
        system=(*(() if base.sshd else ("openssh-server",)), *tools),
        apt=apt,
        pip=settings.pip is not None,
        font=settings.tools and has_font and not base.jupyter,
        lang=settings.tools and base.apt and "LANG" not in env,
    )


def normal_names(settings: ImageSettings) -> tuple[str, ...]:
    """Return the names of the environment's packages, in one order and each once."""
    return tuple(sorted(set(settings.apt)))


def check_settings(environment: str, settings: ImageSettings) -> None:
    """Raise ProblemError where the environment adds packages to images that are not built."""
    if settings.complete and (settings.apt or settings.pip):
        problem = Problem(
            "complete_with_packages",
            f"the environment {environment!r} has `complete: true`, and packages to install (apt, pip)",
            "an image that is complete is copied from the mirror as it is, and nothing is built",
            "remove apt and pip there, or set complete: false for this environment",
        )
        raise ProblemError(problem, "usage")
