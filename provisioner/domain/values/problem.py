"""What is wrong, in one shape everywhere: a stable code, what was seen, why it matters, what to do."""

from collections.abc import Iterable
from typing import Literal

from provisioner.domain.values.model import Value


class Problem(Value):
    """A fault of one node, image or file. The others go on; only `CannotGoOn` ends a run.

    `code` is stable and never translated; `fix` is a command or an act that a reader can do next.
    """

    code: str
    what: str
    why: str
    fix: str


Ending = Literal["failed", "usage", "deferred", "locked", "stale", "interrupted"]


class CannotGoOn(Exception):  # noqa: N818  (it says what happens, not what kind of thing it is)
    """The whole run ends here. Carries every problem found, not only the first.

    `ending` says which way, and so which exit code: `usage` is a mistake in what a person typed or wrote.
    """

    def __init__(self, problems: Problem | Iterable[Problem], ending: Ending = "failed") -> None:
        self.problems = (problems,) if isinstance(problems, Problem) else tuple(problems)
        self.ending = ending
        super().__init__("; ".join(f"{p.code}: {p.what}" for p in self.problems))
