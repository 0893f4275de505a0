from datetime import UTC, datetime

import click

from provisioner.adapters.lab import compatibility_data
from provisioner.adapters.lab.directory import LabDirectory, read_lab
from provisioner.adapters.lab.lockfile import lock_text, read_lock, write_lock
from provisioner.adapters.state.journal import open_run
from provisioner.cli.exit_codes import DONE, FAILED
from provisioner.cli.options import (
    AnsibleOptions,
    example,
    fresh_option,
    lab_argument,
    torch_option,
    with_ansible_options,
    with_output,
)
from provisioner.cli.output import Output
from provisioner.cli.plan_context import source
from provisioner.cli.progress_display import show_progress
from provisioner.cli.wiring import fleet, new_lock
from provisioner.console.facts import too_old
from provisioner.console.lock import lock_diff, lock_view
from provisioner.console.problems import problems
from provisioner.domain.lab.lock import LOCK_SCHEMA
from provisioner.workflow.lock.lock import Locked
from provisioner.workflow.probe import probe


@click.command(epilog=example("provision lock ai-lab --torch 2.8.0"))
@lab_argument
@torch_option
@fresh_option
@with_ansible_options
@with_output
def lock(lab: str, torch: str | None, fresh: bool, ansible: AnsibleOptions, output: Output) -> int:
    """Choose an image that runs on every node, build the lab image of it where needed, and pin both in lab.lock.

    Exit 1 where a node got no image. Nothing is changed on any node.
    """
    directory = read_lab(lab)
    with show_progress(output) as show:
        on_event = open_run(directory.lab.name).telling(show)
        probed = probe(fleet(directory, ansible, output.verbose, on_event), on_event)
        locked = new_lock(directory, probed, on_event, torch=torch, fresh=fresh)
    keep(directory, locked, output)
    output.document(LOCK_SCHEMA, locked.lock.model_dump(mode="json") | source(locked.catalog))
    return DONE if set(probed) == set(locked.lock.nodes) else FAILED


def keep(directory: LabDirectory, locked: Locked, output: Output) -> None:
    """Write the lock, and show what was chosen and what changes."""
    before = read_lock(directory.lock)
    output.say(lock_view(locked.lock, locked.selection, locked.catalog, output.out.width))
    output.say(lock_diff("" if before is None else lock_text(before), lock_text(locked.lock)))
    if before != locked.lock:
        write_lock(directory.lock, locked.lock)
    if old := too_old(compatibility_data.load_for(directory.path), datetime.now(UTC).date()):
        output.note(problems([("", old)], "yellow"))
    output.note(f"{directory.lock} is for version control: it says what the lab is held to.")
