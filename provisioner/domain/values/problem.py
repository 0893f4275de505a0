"""Problems: a stable code, what was observed, why it matters, and how to fix it."""

from collections.abc import Iterable
from typing import Literal

from pydantic import Field

from provisioner.domain.values.model import Value


class Problem(Value):
    """A problem of one node, image or file. Only `ProblemError` ends a run.

    `code` is stable and never translated; `fix` is a command or a step that a reader can take next. `node` is the node
    it concerns, or None. JSON documents omit `node`: they list problems under their node.
    """

    code: str
    what: str
    why: str
    fix: str
    node: str | None = Field(default=None, exclude=True)

    def __init__(self, code: str, what: str, why: str, fix: str, node: str | None = None, **_later: object) -> None:
        """Take the fields by position. `_later` are fields of a newer release, which are dropped."""
        super().__init__(code=code, what=what, why=why, fix=fix, node=node)


# Codes of a node that was not reached, or did not answer in time: nothing is known of it.
UNREACHED = frozenset({"unreachable", "host_key_unknown", "host_key_changed", "timed_out"})
Ending = Literal["failed", "usage", "deferred", "locked", "stale", "interrupted"]


class ProblemError(Exception):
    """Ends the whole run. Carries every problem that was found, not only the first.

    `ending` selects the exit code: `usage` is a mistake in a command line or in a file of the lab.
    """

    def __init__(self, problems: Problem | Iterable[Problem], ending: Ending = "failed") -> None:
        """Join code and text of all problems into the message."""
        self.problems = (problems,) if isinstance(problems, Problem) else tuple(problems)
        self.ending = ending
        super().__init__("; ".join(f"{p.code}: {p.what}" for p in self.problems))
