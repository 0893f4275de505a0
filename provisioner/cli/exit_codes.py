"""The exit codes. Scripts rely on them."""

from typing import Final

DONE: Final = 0  # done, or nothing to do
FAILED: Final = 1  # a node or a check failed
USAGE: Final = 2  # a mistake on the command line or in a file of the user
PENDING: Final = 3  # there are changes to make, or drift
DEFERRED: Final = 4  # a node is busy, or it is outside the maintenance window
LOCKED: Final = 5  # another run is changing the lab
STALE: Final = 6  # the saved plan no longer fits
BUG: Final = 70  # a bug of provision; EX_SOFTWARE of sysexits.h
INTERRUPTED: Final = 130  # 128 + SIGINT, as in shells

ENDINGS: Final = {
    "failed": FAILED,
    "usage": USAGE,
    "deferred": DEFERRED,
    "locked": LOCKED,
    "stale": STALE,
    "interrupted": INTERRUPTED,
}
