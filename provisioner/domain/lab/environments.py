"""The environments of a lab as lab.yml describes them: `image` is the one named default, `environments` are others."""

import re
from collections.abc import Mapping
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints

from provisioner.domain.values.image import Flavour
from provisioner.domain.values.model import UserInput

DEFAULT_ENVIRONMENT = "default"  # that of `image`
# A folder of the lab and of nodes is named so, and `provision me up --env NAME`.
ENVIRONMENT_PATTERN = r"[a-z0-9][a-z0-9_-]{0,30}"
MAX_ENVIRONMENTS = 32  # each has images of several GB on each node


def _specifier(text: str) -> str:
    from packaging.specifiers import InvalidSpecifier, SpecifierSet  # noqa: PLC0415  (only when lab.yml is read)

    try:
        SpecifierSet(text if re.match(r"[<>=!~]", text) else f"=={text}")
    except InvalidSpecifier:
        raise ValueError(f"not a version or a range such as 2.8.0 or >=2.6,<3: {text!r}") from None
    return text


def _check_file(text: str) -> str:
    if text.startswith("/") or {"", ".", ".."} & set(text.split("/")):
        raise ValueError(f"{text!r} is not the path of a file below the directory of the lab")
    return text


def _check_not_default(name: str) -> str:
    if name == DEFAULT_ENVIRONMENT:
        raise ValueError("the environment `default` is described by `image`")
    return name


TorchSpec = Annotated[str, AfterValidator(_specifier)]
EnvironmentName = Annotated[str, StringConstraints(pattern=f"^{ENVIRONMENT_PATTERN}$")]
OtherName = Annotated[EnvironmentName, AfterValidator(_check_not_default)]
# As Debian's policy has names; a version or a release behind it would not be the same on two mirrors.
AptPackage = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9+.-]{1,127}$")]
AptPackages = Annotated[
    tuple[AptPackage, ...],
    Field(max_length=200),
    BeforeValidator(lambda given: [given] if isinstance(given, str) else given),
]
LabFile = Annotated[str, StringConstraints(min_length=1, max_length=255), AfterValidator(_check_file)]


class ImageSettings(UserInput):
    """An environment: which torch, and what is installed beside it.

    `complete`: the mirror's images already contain Jupyter and sshd, and nothing is built. `apt_mirror`: replaces the
    host in the image's package sources during the build. `tools`: what people expect on a machine, such as git and
    tmux, is installed. `apt`: names of packages; `pip`: a requirements file, relative to the lab's directory.
    """

    torch: TorchSpec = ">=2"
    flavour: Flavour = "runtime"
    complete: bool = False
    apt_mirror: str | None = None
    tools: bool = True
    apt: AptPackages = ()
    pip: LabFile | None = None


class EnvironmentSettings(UserInput):
    """A further environment. What it does not say, except for packages, it has from `image`."""

    torch: TorchSpec | None = None
    flavour: Flavour | None = None
    complete: bool | None = None
    apt_mirror: str | None = None
    tools: bool | None = None
    apt: AptPackages = ()
    pip: LabFile | None = None


Environments = Annotated[dict[OtherName, EnvironmentSettings], Field(max_length=MAX_ENVIRONMENTS)]


def is_default_environment(name: str) -> bool:
    """Whether this is the name of the default environment, or no name: documents of a lab without others lack it."""
    return name in {"", DEFAULT_ENVIRONMENT}


def resolve_environments(image: ImageSettings, others: Mapping[str, EnvironmentSettings]) -> dict[str, ImageSettings]:
    """Return the settings of every environment by name, `default` first, then in the order of lab.yml."""
    found = {DEFAULT_ENVIRONMENT: image}
    for name, settings in others.items():
        own = {**settings.model_dump(exclude_none=True), "apt": settings.apt, "pip": settings.pip}
        found[name] = image.model_copy(update=own)
    return found
