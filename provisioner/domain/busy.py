"""What is to happen where someone is at work on the GPUs of a seat that a change would stop."""

from typing import Literal

from provisioner.domain.model import Value


class WhenBusy(Value):
    """`seconds` is how long `wait` waits before it defers; `force` needs a `reason`, which the node keeps."""

    policy: Literal["defer", "wait", "force"] = "defer"
    seconds: int = 0
    reason: str = ""
