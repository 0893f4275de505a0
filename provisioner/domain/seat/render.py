"""From a seat and a locked image to the files that lie on the node. Pure: the same values give the same bytes."""

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from jinja2 import StrictUndefined, Template, TemplateError, TemplateSyntaxError, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment

from provisioner.domain.lab.lock import LockedImage
from provisioner.domain.seat import compose_text, proof
from provisioner.domain.seat.seat import SERVICES, Seat, SeatBundle
from provisioner.domain.values.problem import Problem, ProblemError

COMPOSE_TEMPLATE = "compose.yaml.j2"
SSHD_TEMPLATE = "sshd_config.j2"
# Files that are the same for every seat.
STATIC_FILES = (
    "jupyter_server_config.py",
    "start-ssh.py",
    "health.py",
    "gpu_check.py",
    "notice.sh",
    "notice-extension.json",
    "notice-extension.js",
)

_HOST_NAME = re.compile(r"[a-zA-Z0-9]([a-zA-Z0-9.-]{0,61}[a-zA-Z0-9])?")
# Options, which may hold spaces in quotes; the type; the key; a comment. See sshd(8), AUTHORIZED_KEYS FILE FORMAT.
_PUBLIC_KEY = re.compile(
    r"(?:[^\s#][^\x00-\x1f\x7f-\x9f]* )?"
    r"(?:ssh-(?:ed25519|rsa)|ecdsa-sha2-nistp(?:256|384|521)|sk-(?:ssh-ed25519|ecdsa-sha2-nistp256)@openssh\.com)"
    r" [A-Za-z0-9+/]{32,}={0,3}(?: [^\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]*)?"
)


def render(seat: Seat, image: LockedImage, templates: Mapping[str, str]) -> SeatBundle:
    """`templates` maps a file name to its text. Raises ProblemError where the result is not what the seat is given."""
    values = _values(seat, image)
    project = proof.prove(fill(templates[COMPOSE_TEMPLATE], values), seat, image)
    files = {
        # Not the template's text but what was proved: no second reader can see anything else in it.
        "compose.yaml": compose_text.write(project.model_dump(mode="json", exclude_none=True)),
        # The proof has held the user's name against a pattern without quotes, spaces and wildcards.
        "sshd_config": fill(templates[SSHD_TEMPLATE], values),
        "authorized_keys": _authorized_keys(seat.authorized_keys),
        "verify_keys": "",
    }
    return SeatBundle(seat=seat, image=image, files=files | {name: templates[name] for name in STATIC_FILES})


def fill(template: str, values: Mapping[str, Any]) -> str:
    """Fill the template, each value quoted for YAML. Raises ProblemError where the template itself is at fault."""
    try:
        return _compiled(template).render(values)
    except (TemplateError, TypeError, ValueError, ArithmeticError, RecursionError) as error:
        raise ProblemError(_bad_template(error)) from None


@lru_cache(maxsize=8)
def _compiled(template: str) -> Template:
    return ImmutableSandboxedEnvironment(
        undefined=StrictUndefined,
        finalize=_placed,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    ).from_string(template)


def _placed(value: Any) -> str:
    # Turning what is undefined into text raises the error that names it.
    return compose_text.quoted(str(value) if isinstance(value, Undefined) else value)


def _values(seat: Seat, image: LockedImage) -> dict[str, Any]:
    return {
        "seat": seat.model_dump(mode="json"),
        "image": image.model_dump(mode="json"),
        "home": proof.inner_home(seat),
        "hostname": seat.node if _HOST_NAME.fullmatch(seat.node) else seat.name.replace("_", "-").strip("-"),
        "python_user_base": proof.python_user_base(seat, image),
        "visible_devices": proof.visible_devices(seat),
        "devices": proof.device_ids(seat),
        "mounts": {name: proof.mounts(seat, name) for name in SERVICES},
    }


def _authorized_keys(keys: tuple[str, ...]) -> str:
    if bad := [key for key in keys if not _PUBLIC_KEY.fullmatch(key)]:
        raise ProblemError(_bad_key(key) for key in bad)
    return "".join(f"{key}\n" for key in keys)


def _bad_key(key: str) -> Problem:
    return Problem(
        "bad_public_key",
        f"not one line of a public key: {key[:40]!r}",
        "each line of authorized_keys lets someone in, so nothing that only looks like a key goes into it",
        "name files that ssh-keygen wrote with the ending .pub in seat.authorized_keys",
    )


def _bad_template(error: Exception) -> Problem:
    line = f"line {error.lineno}: " if isinstance(error, TemplateSyntaxError) else ""
    return Problem(
        "bad_template",
        f"{line}{error}",
        "a template may only place the values that it is given; one that it does not know is a mistake",
        "correct the lab's templates/compose.yaml.j2, or remove it: the shipped template is used then",
    )
