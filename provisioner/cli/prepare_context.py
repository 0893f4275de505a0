"""One run of prepare: its lab, its flags, and where its news go. Without a journal it only looks."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from provisioner.adapters.ansible.settings import Settings
from provisioner.adapters.lab.directory import LabDirectory, read_lab
from provisioner.adapters.state.journal import RunJournal, open_run
from provisioner.cli.options import Reach
from provisioner.cli.output import Voice
from provisioner.cli.progress_display import watching
from provisioner.cli.wiring import settings
from provisioner.domain.values.event import OnEvent


class Work(NamedTuple):
    directory: LabDirectory
    settings: Settings
    voice: Voice
    yes: bool
    journal: RunJournal | None

    @property
    def run(self) -> str:
        return "check" if self.journal is None else self.journal.run

    @contextmanager
    def telling(self) -> Iterator[OnEvent]:
        with watching(self.voice) as show:
            yield show if self.journal is None else self.journal.telling(show)

    def agreed(self, question: str) -> bool:
        """Raises CannotGoOn where nobody is there to answer."""
        return self.yes or self.voice.agreed(question)


def open_work(lab: str, reach: Reach, voice: Voice, *, yes: bool, check: bool) -> Work:
    directory = read_lab(lab)
    journal = None if check else open_run(directory.lab.name)
    return Work(directory, settings(directory, reach, voice.verbose), voice, yes, journal)
