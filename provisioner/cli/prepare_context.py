"""One run of prepare: its lab, its flags, and where its news go. Without a journal it only looks."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from provisioner.adapters.ansible.settings import Settings
from provisioner.adapters.lab.directory import LabDirectory, read_lab
from provisioner.adapters.state.journal import RunJournal, open_run
from provisioner.cli.options import AnsibleOptions
from provisioner.cli.output import Output
from provisioner.cli.progress_display import show_progress
from provisioner.cli.wiring import settings
from provisioner.domain.values.event import OnEvent


class Work(NamedTuple):
    directory: LabDirectory
    settings: Settings
    output: Output
    yes: bool
    journal: RunJournal | None

    @property
    def run(self) -> str:
        return "check" if self.journal is None else self.journal.run

    @contextmanager
    def telling(self) -> Iterator[OnEvent]:
        with show_progress(self.output) as show:
            yield show if self.journal is None else self.journal.telling(show)

    def agreed(self, question: str) -> bool:
        """Raises ProblemError where nobody is there to answer."""
        return self.yes or self.output.agreed(question)


def open_work(lab: str, ansible: AnsibleOptions, output: Output, *, yes: bool, check: bool) -> Work:
    directory = read_lab(lab)
    journal = None if check else open_run(directory.lab.name)
    return Work(directory, settings(directory, ansible, output.verbose), output, yes, journal)
