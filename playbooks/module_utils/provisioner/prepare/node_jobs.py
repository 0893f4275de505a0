"""Where the jobs of a whole node are kept."""

from __future__ import annotations

from pathlib import Path


class NodeJobs:
    """Where the job of a preparation is kept: as a seat has one, but for the whole node."""

    def __init__(self, state_root: str) -> None:
        self.name = "the node's packages"
        self.folder = Path(state_root) / "prepare"
        self.jobs = self.folder / "jobs"

    def make_folders(self) -> None:
        self.jobs.mkdir(mode=0o700, parents=True, exist_ok=True)
