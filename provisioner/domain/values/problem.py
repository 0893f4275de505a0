"""What is wrong, in one shape everywhere: a stable code, what was seen, why it matters, what to do."""

from collections.abc import Iterable
from typing import Literal

from pydantic import Field

from provisioner.domain.values.model import Value


class Problem(Value):
    """A fault of one node, image or file. The others go on; only `ProblemError` ends a run.

    `code` is stable and never translated; `fix` is a command or a step that a reader can take next. `node` is the node
    it is about, or None. A document leaves `node` out: the place of a problem in it says whose it is.
    """

    code: str
    what: str
    why: str
    fix: str
    node: str | None = Field(default=None, exclude=True)

    def __init__(self, code: str, what: str, why: str, fix: str, node: str | None = None, **_later: object) -> None:
        """Take the fields by position. `_later`: what a newer release wrote, which is dropped."""
        super().__init__(code=code, what=what, why=why, fix=fix, node=node)


Ending = Literal["failed", "usage", "deferred", "locked", "stale", "interrupted"]


class ProblemError(Exception):
    """The whole run ends here. Carries every problem found, not only the first.

    `ending` says which way, and so which exit code: `usage` is a mistake in what a person typed or wrote.
    """

    def __init__(self, problems: Problem | Iterable[Problem], ending: Ending = "failed") -> None:
        self.problems = (problems,) if isinstance(problems, Problem) else tuple(problems)
        self.ending = ending
        super().__init__("; ".join(f"{p.code}: {p.what}" for p in self.problems))
