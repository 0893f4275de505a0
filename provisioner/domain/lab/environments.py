"""The environments of a lab as lab.yml describes them: `image` is the one named default, `environments` are others."""

import re
from collections.abc import Mapping
from typing import Annotated, Any

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
_AptList = Annotated[tuple[AptPackage, ...], Field(max_length=200)]
AptPackages = Annotated[
    _AptList,
    BeforeValidator(
        lambda given: [given] if isinstance(given, str) else given,
        json_schema_input_type=AptPackage | _AptList,
    ),
]
LabFile = Annotated[str, StringConstraints(min_length=1, max_length=255), AfterValidator(_check_file)]


class ImageSettings(UserInput):
    """An environment: which torch, and what is installed beside it."""

    torch: TorchSpec = Field(
        default=">=2", description="A version or a range of them, in quotes", examples=[">=2.8,<2.12"]
    )
    flavour: Flavour = Field(default="runtime", description="`devel` contains the compilers", examples=["runtime"])
    complete: bool = Field(
        default=False,
        description="The mirror's images already contain Jupyter and sshd, and nothing is built",
        examples=[False],
    )
    apt_mirror: str | None = Field(
        default=None,
        description="Replaces the host in the image's package sources while it is built; none: the sources as they are",
        examples=["mirrors.tuna.tsinghua.edu.cn"],
    )
    tools: bool = Field(
        default=True,
        description="What people expect on a machine is installed, such as git, tmux and a Chinese font",
        examples=[True],
    )
    apt: AptPackages = Field(
        default=(), description="Names of Debian or Ubuntu packages, without versions", examples=[["git-lfs", "ffmpeg"]]
    )
    pip: LabFile | None = Field(
        default=None,
        description="A requirements file, relative to the lab's directory",
        examples=["environments/default/requirements.txt"],
    )


def _as_in_image(name: str) -> Any:
    """Return the field of `image` with this name for another environment, where it may be left out."""
    field = ImageSettings.model_fields[name]
    meaning = str(field.description).partition("; none:")[0]
    return Field(default=None, description=f"{meaning}; none: as in image", examples=field.examples)


class EnvironmentSettings(UserInput):
    """A further environment. What it does not say, except for packages, it has from `image`."""

    torch: TorchSpec | None = _as_in_image("torch")
    flavour: Flavour | None = _as_in_image("flavour")
    complete: bool | None = _as_in_image("complete")
    apt_mirror: str | None = _as_in_image("apt_mirror")
    tools: bool | None = _as_in_image("tools")
    apt: AptPackages = Field(
        default=(), description="Names of Debian or Ubuntu packages, without versions", examples=[["git-lfs", "ffmpeg"]]
    )
    pip: LabFile | None = Field(
        default=None,
        description="A requirements file, relative to the lab's directory",
        examples=["environments/nlp/requirements.txt"],
    )


Environments = Annotated[dict[OtherName, EnvironmentSettings], Field(max_length=MAX_ENVIRONMENTS)]


def is_default_environment(name: str) -> bool:
    """Whether this is the name of the default environment, or no name: documents of a lab without others lack it."""
    return name in {"", DEFAULT_ENVIRONMENT}


def setting_of(environment: str) -> str:
    """Return where lab.yml describes an environment, such as `environments.nlp`."""
    return "image" if environment == DEFAULT_ENVIRONMENT else f"environments.{environment}"


def resolve_environments(image: ImageSettings, others: Mapping[str, EnvironmentSettings]) -> dict[str, ImageSettings]:
    """Return the settings of every environment by name, `default` first, then in the order of lab.yml."""
    found = {DEFAULT_ENVIRONMENT: image}
    for name, settings in others.items():
        own = {**settings.model_dump(exclude_none=True), "apt": settings.apt, "pip": settings.pip}
        found[name] = image.model_copy(update=own)
    return found
