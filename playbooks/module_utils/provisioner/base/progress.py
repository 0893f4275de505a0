"""The type of the function through which long work reports its progress."""

from __future__ import annotations

from typing import Protocol


class Report(Protocol):
    """Reports one line of progress; `Job.report` is the one that a job uses."""

    def __call__(self, text: str, done: int | None = None, total: int | None = None, phase: str | None = None) -> None:
        """Report `text`; `done` and `total` are bytes, `phase` is a new phase of the job."""
