from datetime import UTC, datetime

import click

from provisioner.adapters.lab import compatibility_data
from provisioner.adapters.lab.directory import LabDirectory, read_lab
from provisioner.adapters.lab.lockfile import lock_text, read_lock, write_lock
from provisioner.adapters.state.journal import open_run
from provisioner.cli.exit_codes import DONE, FAILED
from provisioner.cli.options import Reach, example, fresh_option, lab_argument, reaching, torch_option, voiced
from provisioner.cli.output import Voice
from provisioner.cli.plan_context import source
from provisioner.cli.progress_display import watching
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
@reaching
@voiced
def lock(lab: str, torch: str | None, fresh: bool, reach: Reach, voice: Voice) -> int:
    """Choose an image that runs on every node, build the lab image of it where needed, and pin both in lab.lock.

    Exit 1 where a node got no image. Nothing is changed on any node.
    """
    directory = read_lab(lab)
    with watching(voice) as show:
        on_event = open_run(directory.lab.name).telling(show)
        probed = probe(fleet(directory, reach, voice.verbose, on_event), on_event)
        locked = new_lock(directory, probed, on_event, torch=torch, fresh=fresh)
    keep(directory, locked, voice)
    voice.document(LOCK_SCHEMA, locked.lock.model_dump(mode="json") | source(locked.catalog))
    return DONE if set(probed) == set(locked.lock.nodes) else FAILED


def keep(directory: LabDirectory, locked: Locked, voice: Voice) -> None:
    """Write the lock, and show what was chosen and what changes."""
    before = read_lock(directory.lock)
    voice.say(lock_view(locked.lock, locked.selection, locked.catalog, voice.out.width))
    voice.say(lock_diff("" if before is None else lock_text(before), lock_text(locked.lock)))
    if before != locked.lock:
        write_lock(directory.lock, locked.lock)
    if old := too_old(compatibility_data.load_for(directory.path), datetime.now(UTC).date()):
        voice.note(problems([("", old)], "yellow"))
    voice.note(f"{directory.lock} is for version control: it says what the lab is held to.")
