"""Exit codes; they are a contract with scripts."""

from typing import Final

DONE: Final = 0  # or nothing to do
FAILED: Final = 1  # some node or check
USAGE: Final = 2  # what was typed, or a file that a person wrote
PENDING: Final = 3  # changes, or drift
DEFERRED: Final = 4  # because busy, or because it is no hour for changes
LOCKED: Final = 5  # by another run
STALE: Final = 6  # the saved plan
BUG: Final = 70  # ours; EX_SOFTWARE of sysexits.h
INTERRUPTED: Final = 130  # 128 + SIGINT, as shells have it

ENDINGS: Final = {
    "failed": FAILED,
    "usage": USAGE,
    "deferred": DEFERRED,
    "locked": LOCKED,
    "stale": STALE,
    "interrupted": INTERRUPTED,
}
