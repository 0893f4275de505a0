"""Where the jobs of a whole node are kept."""

from __future__ import annotations

from pathlib import Path


class NodeJobs:
    """The folder of jobs that change the whole node; each seat has its own folder of jobs."""

    def __init__(self, state_root: str) -> None:
        """The folder is below the state root."""
        self.name = "the node's packages"
        self.folder = Path(state_root) / "prepare"
        self.jobs = self.folder / "jobs"

    def make_folders(self) -> None:
        """Make the folders that are missing."""
        self.jobs.mkdir(mode=0o700, parents=True, exist_ok=True)
