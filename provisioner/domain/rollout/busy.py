"""What becomes of a seat that someone works on: left for another day, waited for, or stopped for a reason."""

import re
from typing import Literal, Self

from pydantic import model_validator

from provisioner.domain.values.model import Value

Policy = Literal["defer", "wait", "force"]

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_LENGTH = re.compile(r"([1-9][0-9]{0,5})([smhd])")


class WhenBusy(Value):
    """`seconds` is how long `wait` waits at most; a seat that is busy still is deferred then.

    `reason` is why `force` may stop somebody's work: it is shown, and kept on the control machine and on the node.
    """

    policy: Policy = "defer"
    seconds: int = 0
    reason: str = ""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.policy == "wait") != (self.seconds > 0):
            raise ValueError("wait needs a duration, and nothing else has one")
        if (self.policy == "force") != bool(self.reason):
            raise ValueError("force needs a reason, and nothing else has one")
        return self


DEFER = WhenBusy()


def when_busy(text: str, reason: str = "") -> WhenBusy:
    """Of `defer`, `wait:2h` or `force`. Raises ValueError with words for whoever typed it."""
    policy, _, length = text.partition(":")
    if policy == "wait":
        return WhenBusy(policy="wait", seconds=length_of(length))
    if text == "force":
        if not reason:
            raise ValueError("force stops somebody's work, so it needs a reason: --reason TEXT")
        return WhenBusy(policy="force", reason=reason)
    if text == "defer":
        return DEFER
    raise ValueError(f"{text!r} is none of defer, wait:DURATION (such as wait:2h) and force")


def length_of(text: str) -> int:
    """Seconds of 90s, 30m, 2h or 1d. Raises ValueError for anything else."""
    match = _LENGTH.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no duration such as 90s, 30m, 2h or 1d")
    return int(match[1]) * _UNITS[match[2]]


def length_text(seconds: int) -> str:
    """The shortest text that `length_of` reads as these seconds."""
    unit = next(unit for unit in ("d", "h", "m", "s") if seconds % _UNITS[unit] == 0)
    return f"{seconds // _UNITS[unit]}{unit}"
