"""Where the jobs of a whole node are kept."""

from __future__ import annotations

from pathlib import Path


class NodeJobs:
    """A folder of jobs that concern the whole node; each seat has its own folder of jobs.

    `prepare`: jobs that change the node itself. `batch`: jobs that carry out the orders of its seats.
    """

    pattern = "*.json"

    def __init__(self, state_root: str, folder: str = "prepare") -> None:
        """The folder is below the state root."""
        self.name = "the node"
        self.folder = Path(state_root) / folder
        self.jobs = self.folder / "jobs"

    def make_folders(self) -> None:
        """Make the folders that are missing."""
        self.jobs.mkdir(mode=0o700, parents=True, exist_ok=True)


class BatchJobs(NodeJobs):
    """The batches of one run. Several runs have batches at once, each with a lock of its own."""

    def __init__(self, state_root: str, run: str) -> None:
        """The files of all batches are in one folder; `folder` is that of the run."""
        super().__init__(state_root, "batch")
        self.folder = self.folder / "runs" / run
        self.pattern = f"{run}.*.json"

    def make_folders(self) -> None:
        """Make the folders that are missing."""
        super().make_folders()
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
