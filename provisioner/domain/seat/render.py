"""Render the files of a seat from its values and a locked image. Pure: the same values give the same bytes."""

import json
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from jinja2 import StrictUndefined, Template, TemplateError, TemplateSyntaxError, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment

from provisioner.domain.lab.lock import LockedImage
from provisioner.domain.lab.mounts import Mount
from provisioner.domain.seat import compose_text, proof
from provisioner.domain.seat.document import SeatBundle, SeatDocument
from provisioner.domain.seat.fill import device_names, host_name, visible_devices
from provisioner.domain.seat.inside import QUESTIONS_FILE, extra_lines, inside_files, questions_text
from provisioner.domain.seat.seat import SERVICES, Seat, jupyter_url
from provisioner.domain.seat.self_service import self_service_texts
from provisioner.domain.values.problem import Problem, ProblemError

COMPOSE_TEMPLATE = "compose.yaml.j2"
SSHD_TEMPLATE = "sshd_config.j2"
URL_TEMPLATE = "provision-url.j2"
MOUNTS_FILE = "mounts.json"  # what the node checks before it starts the seat; not there without mounts
# Files that are the same for every seat of a kind.
STATIC_FILES = (
    "jupyter_server_config.py",
    "start-ssh.py",
    "health.py",
    "gpu_check.py",
    "notice.sh",
    "notice-extension.json",
    "notice-extension.js",
)

# JupyterLab looks for the extensions of its own environment only; a course may have one, such as that of ipywidgets.
_COURSE_EXTENSIONS = 'c.LabApp.extra_labextensions_path.append("/opt/provisioner/course/share/jupyter/labextensions")\n'

# Options, which may hold spaces in quotes; the type; the key; a comment. See sshd(8), AUTHORIZED_KEYS FILE FORMAT.
_PUBLIC_KEY = re.compile(
    r"(?:[^\s#][^\x00-\x1f\x7f-\x9f]* )?"
    r"(?:ssh-(?:ed25519|rsa)|ecdsa-sha2-nistp(?:256|384|521)|sk-(?:ssh-ed25519|ecdsa-sha2-nistp256)@openssh\.com)"
    r" [A-Za-z0-9+/]{32,}={0,3}(?: [^\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]*)?"
)


def render(seat: Seat, image: LockedImage, templates: Mapping[str, str]) -> SeatBundle:
    """Render all files of one seat. `templates`: text by file name. Raises ProblemError if the proof of a file fails.

    For many seats: `Documents`.
    """
    check_keys(seat.authorized_keys)
    values = _values(seat, image)
    project = proof.prove(fill(templates[COMPOSE_TEMPLATE], values), seat, image)
    files = {
        # The proved model and not the template's text, so that no other parser can read it differently.
        "compose.yaml": compose_text.write(project.model_dump(mode="json", exclude_none=True)),
        # The proof has checked the user's name: it has no quotes, spaces or wildcards.
        "sshd_config": fill(templates[SSHD_TEMPLATE], values),
        "provision-url": fill(templates[URL_TEMPLATE], values),
        "authorized_keys": "".join(f"{key}\n" for key in seat.authorized_keys),
        "verify_keys": "",
    }
    files |= {name: templates[name] for name in STATIC_FILES}
    if seat.options.mounts:
        files[MOUNTS_FILE] = _mounts_text(seat.options.mounts)
    if seat.kind == "self_service":
        files |= self_service_texts(templates, seat.cull_s)
    files["jupyter_server_config.py"] += extra_lines(seat.options)
    if image.requirements:
        files["jupyter_server_config.py"] += _COURSE_EXTENSIONS
    files |= inside_files(seat.options.inside)
    if questions := questions_text(seat.options):
        files[QUESTIONS_FILE] = questions
    return SeatBundle(seat=seat, image=image, document=SeatDocument.of_texts(files))


def fill(template: str, values: Mapping[str, Any]) -> str:
    """Fill a template, with each value quoted for YAML. Raises ProblemError if the template is invalid."""
    try:
        return _compiled(template).render(values)
    except (TemplateError, TypeError, ValueError, ArithmeticError, RecursionError) as error:
        line = f"line {error.lineno}: " if isinstance(error, TemplateSyntaxError) else ""
        problem = Problem(
            "bad_template",
            f"{line}{error}",
            "a template may only use the values that it is given; an unknown name is a mistake",
            "correct the lab's templates/compose.yaml.j2, or remove it: the shipped template is used then",
        )
        raise ProblemError(problem) from None


def _mounts_text(mounts: tuple[Mount, ...]) -> str:
    """Return the mounts as JSON, one a line, so that a plan shows which of them change."""
    lines = ",\n".join(json.dumps(mount.model_dump(mode="json")) for mount in mounts)
    return f"[\n{lines}\n]\n"


@lru_cache(maxsize=8)
def _compiled(template: str) -> Template:
    return ImmutableSandboxedEnvironment(
        undefined=StrictUndefined,
        finalize=_quote,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    ).from_string(template)


def _quote(value: Any) -> str:
    # The conversion of an undefined value to text raises the error that names it.
    return compose_text.quoted(str(value) if isinstance(value, Undefined) else value)


def _values(seat: Seat, image: LockedImage) -> dict[str, Any]:
    return {
        "seat": seat.model_dump(mode="json"),
        "image": image.model_dump(mode="json"),
        "options": seat.options.model_dump(mode="json"),
        "home": proof.container_home(seat),
        "hostname": host_name(seat.node, seat.name),
        "jupyter_url": jupyter_url(seat),
        "python_user_base": proof.python_user_base(seat, image),
        "visible_devices": visible_devices(seat.gpu_driver, seat.gpus),
        "devices": device_names(seat.gpu_driver, seat.gpus),
        "variables": proof.variables(seat, image),
        # The files of an image that an earlier release has built keep their bytes.
        "is_of_this_release": image.format > 1,
        "restart": proof.restart_policy(seat),
        "mounts": {name: proof.mounts(seat, name) for name in SERVICES},
    }


def check_keys(keys: tuple[str, ...]) -> None:
    """Check lines of authorized_keys. Raises ProblemError `bad_public_key`."""
    if bad := [key for key in keys if not _PUBLIC_KEY.fullmatch(key)]:
        why = "each line of authorized_keys admits a user, so only complete public keys are accepted"
        fix = "name files that ssh-keygen wrote with the ending .pub in seat.authorized_keys"
        raise ProblemError(
            Problem("bad_public_key", f"not one line of a public key: {key[:40]!r}", why, fix) for key in bad
        )
