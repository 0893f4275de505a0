"""A request to the broker: one JSON object of at most MOST_BYTES, with nothing in it that is not listed here.

No request can name a path, an image, a mount, a device, a port or a command, and only those of root name a seat.
"""

from __future__ import annotations

import json
import re
from typing import Any, Callable, NamedTuple

from ansible.module_utils.provisioner.base.problem import ProblemError
from ansible.module_utils.provisioner.seat.seat import NAME

VERSION = 1
MOST_BYTES = 4096
MOST_DEPTH = 4
MOST_KEYS = 4
LONGEST_KEY = 1000
LONGEST_REASON = 120
MOST_GPUS = 64
MOST_HOURS = 24 * 366
MOST_EXTENDED = 24 * 365  # hours
MOST_WAIT_S = 7 * 86400
MOST_LINES = 200

ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
ENVIRONMENT = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
# A text in JSON. One without an end reaches to the end of the request: else each of its quotes would be tried in turn.
TEXT = re.compile(r'"(\\.?|[^"\\])*("|\Z)', re.DOTALL)
DAY = re.compile(r"[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])")
# A public key without options; see sshd(8), AUTHORIZED_KEYS FILE FORMAT.
KEY = re.compile(
    r"(ssh-(ed25519|rsa)|ecdsa-sha2-nistp(256|384|521)|sk-(ssh-ed25519|ecdsa-sha2-nistp256)@openssh\.com)"
    r" [A-Za-z0-9+/]{16,}={0,2}( [!-~]([ -~]*[!-~])?)?"
)


class Request(NamedTuple):
    """A request that was read. `values`: those that it gives of the fields of its verb."""

    id: str
    verb: str
    values: dict[str, Any]


Check = Callable[[Any], bool]


def _is_text(rule: re.Pattern[str]) -> Check:
    return lambda value: isinstance(value, str) and bool(rule.fullmatch(value))


def _is_number(least: int, most: int) -> Check:
    return lambda value: type(value) is int and least <= value <= most


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_keys(value: Any) -> bool:
    return isinstance(value, list) and len(value) <= MOST_KEYS and all(map(_is_key, value))


def _is_key(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= LONGEST_KEY and bool(KEY.fullmatch(value))


def _is_reason(value: Any) -> bool:
    is_line = isinstance(value, str) and 0 < len(value) <= LONGEST_REASON and value.isprintable()
    return is_line and bool(value.strip())


_HOURS = _is_number(1, MOST_HOURS)
VERBS: dict[str, dict[str, Check]] = {
    "environments": {},
    "status": {},
    "up": {
        "environment": _is_text(ENVIRONMENT),
        "gpus": _is_number(0, MOST_GPUS),
        "hours": _HOURS,
        "keys": _is_keys,
        "switch": _is_flag,
        "restart": _is_flag,
        "wait_s": _is_number(0, MOST_WAIT_S),
    },
    "renew": {"hours": _HOURS},
    "keep_alive": {"hours": _HOURS, "reason": _is_reason},
    "cancel": {},
    "down": {},
    "upgrade": {"now": _is_flag},
    "rotate_token": {"now": _is_flag},
    "logs": {"service": _is_text(re.compile("jupyter|ssh")), "lines": _is_number(1, MOST_LINES)},
}
_OF_A_SEAT: dict[str, Check] = {"seat": _is_text(NAME), "reason": _is_reason}
# Those that only root may ask for: about all seats, and about the seat that they name.
ROOT_VERBS: dict[str, dict[str, Check]] = {
    "seats": {},
    "release": _OF_A_SEAT,
    "extend": {**_OF_A_SEAT, "hours": _is_number(1, MOST_EXTENDED)},
    "stop": _OF_A_SEAT,
    "upgrade_seat": _OF_A_SEAT,
    "usage": {"since": _is_text(DAY)},
}
ALL_VERBS = {**VERBS, **ROOT_VERBS}
REQUIRED = {
    "renew": {"hours"},
    "keep_alive": {"hours", "reason"},
    "logs": {"service"},
    "release": {"seat", "reason"},
    "extend": {"seat", "hours", "reason"},
    "stop": {"seat", "reason"},
    "upgrade_seat": {"seat", "reason"},
}


def parse_request(data: bytes) -> Request:
    """Return the request in a line without its end. Raises ProblemError `bad_request`."""
    found = _parse(data)
    if not isinstance(found, dict):
        raise _bad("it is not a JSON object")
    if type(found.get("v")) is not int or found["v"] != VERSION:
        raise _bad(f"`v` has to be {VERSION}")
    if not _is_text(ID)(found.get("id")):
        raise _bad("`id` has to be a UUID in small letters")
    verb = found.get("verb")
    if not (isinstance(verb, str) and verb in ALL_VERBS):
        raise _bad(f"`verb` has to be one of {', '.join(VERBS)}")
    values = {name: value for name, value in found.items() if name not in ("v", "id", "verb")}
    _check_values(verb, values)
    return Request(found["id"], verb, values)


def request_id(data: bytes) -> str | None:
    """Return the id of a request that may be wrong otherwise, None where it has none."""
    try:
        found = _parse(data)
    except ProblemError:
        return None
    number = found.get("id") if isinstance(found, dict) else None
    return number if _is_text(ID)(number) else None


def _check_values(verb: str, values: dict[str, Any]) -> None:
    known = ALL_VERBS[verb]
    for name, value in values.items():
        if name not in known:
            raise _bad(f"{verb} has no field {ascii(name)[:40]}")
        if not known[name](value):
            raise _bad(f"the value of `{name}` is not allowed")
    missing = REQUIRED.get(verb, set()) - values.keys()
    if missing:
        raise _bad(f"{verb} needs {', '.join(sorted(missing))}")


def _parse(data: bytes) -> Any:
    if len(data) > MOST_BYTES:
        raise _bad(f"it has more than {MOST_BYTES} bytes")
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise _bad("it is not UTF-8") from None
    if _depth(text) > MOST_DEPTH:
        raise _bad(f"it is nested more than {MOST_DEPTH} deep")
    try:
        return json.loads(
            text, object_pairs_hook=_unique, parse_constant=_refuse, parse_float=_refuse, parse_int=_number
        )
    except ValueError as error:
        raise _bad(f"it is not JSON that is accepted here: {error}") from None


def _depth(text: str) -> int:
    """Return how deep brackets are nested, before the parser, which is recursive, sees them."""
    deepest = depth = 0
    for character in TEXT.sub("", text):
        depth += (character in "[{") - (character in "]}")
        deepest = max(deepest, depth)
    return deepest


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key occurs twice")
    return found


def _refuse(text: str) -> Any:
    raise ValueError(f"the number {text[:20]}")


def _number(text: str) -> int:
    if len(text) > len(str(MOST_WAIT_S)) + 1:
        raise ValueError("a number is too large")
    return int(text)


def _bad(what: str) -> ProblemError:
    return ProblemError(
        "bad_request",
        f"the broker refuses the request: {what}",
        "it accepts a few requests only, each in one form",
        "use the command `provision me` of the node; if you do: report this as a bug",
    )
