"""What a node has for containers, and the limits of a seat's containers that follow from it."""

from typing import Annotated

from pydantic import Field

from provisioner.domain.values.model import Value
from provisioner.domain.values.size import Size

# The bounds of what is believed of a node; Linux and Docker have lower ones of their own.
_Bytes = Annotated[int, Field(ge=1, le=1 << 60)]
_Count = Annotated[int, Field(ge=1, le=1 << 31)]


class Capacity(Value):
    """What a node has for containers; None: it does not say. `memory`: bytes.

    `open_files`: how many files a process of the engine may raise its limit to (RLIMIT_NOFILE, hard).
    """

    memory: _Bytes | None = None
    cpus: _Count | None = None
    open_files: _Count | None = None


class OpenFiles(Value):
    """How many files a process in a container may have open: at first, and after it has raised the limit itself."""

    soft: _Count
    hard: _Count


class SeatLimits(Value):
    """The limits of each container of a seat; None: no limit, of `nofile`: the engine's default."""

    memory: Size | None = None
    cpus: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    pids: int = 4096
    shm: Size = "8g"
    nofile: OpenFiles | None = None
