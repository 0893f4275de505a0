"""The policy for a seat whose GPUs are in use: defer it, wait for it, or stop the work for a stated reason."""

import re
from typing import Literal, Self

from pydantic import model_validator

from provisioner.domain.values.duration import parse_duration
from provisioner.domain.values.model import Value

Policy = Literal["defer", "wait", "force"]

_WAIT_DURATION = re.compile(r"[1-9][0-9]{0,5}[smhd]")  # one number and one unit, not zero


class WhenBusy(Value):
    """`seconds`: how long `wait` waits at most; a seat that is then still busy is deferred.

    `reason`: why `force` may stop running work. It is shown, and recorded on the control machine and on the node.
    """

    policy: Policy = "defer"
    seconds: int = 0
    reason: str = ""

    @model_validator(mode="after")
    def _check_policy(self) -> Self:
        if (self.policy == "wait") != (self.seconds > 0):
            raise ValueError("wait needs a duration, and nothing else has one")
        if (self.policy == "force") != bool(self.reason):
            raise ValueError("force needs a reason, and nothing else has one")
        return self


DEFER = WhenBusy()


def when_busy(text: str, reason: str = "") -> WhenBusy:
    """Parse `defer`, `wait:2h` or `force`. Raises ValueError with a message for the user."""
    policy, _, duration = text.partition(":")
    if policy == "wait":
        if not _WAIT_DURATION.fullmatch(duration):
            raise ValueError(f"invalid duration {duration!r}: write it like 90s, 30m, 2h or 1d")
        return WhenBusy(policy="wait", seconds=parse_duration(duration))
    if text == "force":
        if not reason:
            raise ValueError("force stops running work, so it needs a reason: --reason TEXT")
        return WhenBusy(policy="force", reason=reason)
    if text == "defer":
        return DEFER
    raise ValueError(f"{text!r} is none of defer, wait:DURATION (such as wait:2h) and force")
