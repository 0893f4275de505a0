"""What the tools inside of every seat are set to: package indexes, proxy, time zone, variables. It has no secrets."""

import re
from typing import Annotated
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, Field, StringConstraints

from provisioner.domain.values.model import UserInput

# By name, and by look: keys of well-known services, and the text of a private key.
SECRET_NAME = re.compile("token|secret|passw|credential|api_?key|private_?key|auth", re.IGNORECASE)
_SECRET_LOOK = re.compile(
    r"hf_[A-Za-z0-9]{20,}|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_|glpat-|sk-[A-Za-z0-9_-]{20,}|AKIA[0-9A-Z]{16}"
    r"|xox[abprs]-|eyJ[A-Za-z0-9_-]{10,}\.eyJ|-----BEGIN|(?<![0-9a-f])[0-9a-f]{40}(?![0-9a-f])"
)
# Variables that a seat depends on, or that would replace a file of lowest precedence.
_OWN = re.compile(
    r"(PROVISIONER|JUPYTER|NVIDIA|CUDA_VISIBLE|LD_|DOCKER).*|HOME|PATH|SHELL|USER|LOGNAME|PYTHONUSERBASE|PYTHONPATH"
    r"|PYTHONHOME|HF_HOME|HF_ENDPOINT|TZ|MPLCONFIGDIR|BASH_ENV|ENV|PROMPT_COMMAND|(https?|all|no)_proxy",
    re.IGNORECASE,
)
MAX_PORT = 65535
_PRINTABLE = r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]{0,4096}$"


def check_url_port(text: str) -> str:
    """Return the URL. Raises ValueError where it has no host, or a port that does not exist. A path has none."""
    try:
        port = urlsplit(text).port
    except ValueError:
        port = 0
    if port == 0:
        raise ValueError(f"{text!r} has no host, or no port from 1 to {MAX_PORT}")
    return text


def _check_url(text: str) -> str:
    place = urlsplit(check_url_port(text))
    if place.scheme not in {"http", "https"} or not place.hostname:
        raise ValueError(f"not an http or https URL: {text!r}")
    if "@" in place.netloc:
        raise ValueError("the URL has a user or a password: every student could read it")
    if place.query or place.fragment:
        raise ValueError(f"the URL has a query or a fragment: {text!r}")
    return text


def _check_zone(text: str) -> str:
    if text == "localtime":
        raise ValueError("localtime is the time of whatever machine reads it: name a zone")
    try:
        ZoneInfo(text)
    except (KeyError, ValueError, OSError):  # not found, a path outside the folder, a folder
        raise ValueError(f"no time zone is named so: {text!r}") from None
    return text


def check_variables(variables: dict[str, str]) -> dict[str, str]:
    """Return the variables. Raises ValueError where one is the seat's own, or looks like a secret."""
    for name, value in variables.items():
        if SECRET_NAME.search(name) or _SECRET_LOOK.search(value):
            raise ValueError(
                f"{name} looks like a secret, and every student could read it: people keep their own in their homes"
            )
        if not value.isprintable():  # Jupyter would have it, and a login by SSH would not
            raise ValueError(f"{name} has a character that cannot be seen, such as a wide space")
        if _OWN.fullmatch(name):
            raise ValueError(f"{name} is set by the seat, or by another key of lab.yml")
    return variables


Url = Annotated[
    str, StringConstraints(pattern=r"^[!#-&(-;=?-Z_a-z~\[\]]{1,512}$"), AfterValidator(_check_url)
]  # without space, quote, <, >, \, ^, `, {, | and }
TimeZone = Annotated[str, AfterValidator(_check_zone)]
Channel = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._~:/-]{0,254}$"), AfterValidator(check_url_port)
]
ProxyHost = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9.*:\[\]/-]{1,253}$")]
VariableName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,127}$")]
VariableValue = Annotated[str, StringConstraints(pattern=_PRINTABLE)]


class SeatProxy(UserInput):
    """The proxy that programs in seats use. It has no user and no password."""

    http: Url = Field(description="The proxy for http", examples=["http://proxy.campus.example:3128"])
    https: Url | None = Field(
        default=None,
        description="The proxy for https; none: that for http",
        examples=["http://proxy.campus.example:3128"],
    )
    no_proxy: Annotated[tuple[ProxyHost, ...], Field(max_length=64)] = Field(
        default=(),
        description="Hosts that are reached without it",
        examples=[["localhost", "127.0.0.1", ".campus.example"]],
    )


class Inside(UserInput):
    """Settings of tools inside of every seat. A setting of the student wins."""

    pip_index: Url | None = Field(
        default=None,
        description="The package index of pip and uv",
        examples=["https://mirrors.tuna.tsinghua.edu.cn/pypi/web/simple"],
    )
    conda_channels: Annotated[tuple[Channel, ...], Field(max_length=16)] = Field(
        default=(),
        description="The channels of conda, in their order",
        examples=[["https://mirrors.tuna.tsinghua.edu.cn/anaconda/pkgs/main"]],
    )
    hf_endpoint: Url | None = Field(
        default=None, description="Takes the place of huggingface.co", examples=["https://hf-mirror.com"]
    )
    proxy: SeatProxy | None = Field(default=None, description="The proxy of programs in seats")
    timezone: TimeZone | None = Field(default=None, description="The time zone of seats", examples=["Asia/Shanghai"])
    env: Annotated[dict[VariableName, VariableValue], Field(max_length=64), AfterValidator(check_variables)] = Field(
        default={},
        description="Variables; no secrets, as every student can read them",
        examples=[{"WANDB_MODE": "offline"}],
    )
