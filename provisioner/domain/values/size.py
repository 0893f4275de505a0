"""Sizes in bytes: as text for people, and as text that Docker reads."""

from typing import Annotated

from pydantic import AfterValidator, StringConstraints

# A size as Docker reads it, in powers of 1024: 512m, 8g.
SIZE_PATTERN = "[1-9][0-9]{0,11}[kmg]"
_SHIFTS = {"k": 10, "m": 20, "g": 30}
_MAX_BITS = 63  # of the number of bytes that Docker reads
_BINARY_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


def size_bytes(size: str) -> int:
    """Return the bytes of a size such as 8g."""
    return int(size[:-1]) << _SHIFTS[size[-1]]


def check_size(size: str) -> str:
    """Return the size. Raises ValueError where it is more than Docker can read."""
    if size_bytes(size).bit_length() > _MAX_BITS:
        raise ValueError(f"no machine has so much: {size}")
    return size


Size = Annotated[str, StringConstraints(pattern=f"^{SIZE_PATTERN}$"), AfterValidator(check_size)]


def human_size(count: int) -> str:
    """Return bytes as Docker prints them, in powers of 1000: 4.26 GB."""
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:  # noqa: PLR2004  (the step from one unit to the next)
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


def binary_size(count: int) -> str:
    """Return bytes in powers of 1024, cut to tenths: 97.1 GiB. So what is below a limit never reads as more than it.

    Nodes write it in the same words (disk/limit.py).
    """
    power = min(max(count.bit_length() - 1, 0) // 10, len(_BINARY_UNITS) - 1)
    return f"{(count * 10 >> 10 * power) / 10:g} {_BINARY_UNITS[power]}"
