"""The context of a `prepare` run: lab, Ansible settings, output and journal. A check has no journal."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import NamedTuple

from provisioner.adapters.ansible.settings import Settings
from provisioner.adapters.lab.directory import LabDirectory, read_lab
from provisioner.adapters.state.journal import RunJournal, open_run
from provisioner.cli.options import AnsibleOptions
from provisioner.cli.output import Output
from provisioner.cli.progress_display import show_progress
from provisioner.cli.run_context import hold_lab
from provisioner.cli.wiring import settings
from provisioner.domain.values.event import OnEvent


class PrepareContext(NamedTuple):
    """What the steps of a prepare run share. `journal` is None where nothing may be changed."""

    directory: LabDirectory
    settings: Settings
    output: Output
    yes: bool
    journal: RunJournal | None

    @property
    def run(self) -> str:
        """The identifier of the run, or "check" where there is no journal."""
        return "check" if self.journal is None else self.journal.run

    @contextmanager
    def progress(self) -> Iterator[OnEvent]:
        """Show events while the block runs, and record them where there is a journal."""
        with show_progress(self.output) as show:
            yield show if self.journal is None else self.journal.recording(show)

    def confirm(self, question: str) -> bool:
        """Ask the user for confirmation, unless --yes was given. Raises ProblemError without a terminal."""
        return self.yes or self.output.confirm(question)


@contextmanager
def open_prepare_context(  # noqa: PLR0913  (flags)
    lab: str, verb: str, ansible: AnsibleOptions, output: Output, *, yes: bool, check: bool
) -> Iterator[PrepareContext]:
    """Read the lab and start a run with a journal and the lock of the lab; a check has neither.

    Raises ProblemError (locked) where another run changes the lab.
    """
    directory = read_lab(lab)
    journal = None if check else open_run(directory.lab.name)
    work = PrepareContext(directory, settings(directory, ansible, output.verbose), output, yes, journal)
    with nullcontext() if check else hold_lab(directory.lab.name, work.run, verb):
        yield work
