"""`provision environments remove`: take an environment that was kept out of lab.lock."""

import click
from click.shell_completion import CompletionItem

from provisioner.adapters.lab.directory import LOCK_FILE, LabDirectory, find_lab, read_lab
from provisioner.adapters.lab.lockfile import read_lock, write_lock
from provisioner.adapters.state.journal import open_run
from provisioner.cli.commands.lock import note_old_signature
from provisioner.cli.exit_codes import DONE, FAILED
from provisioner.cli.options import example, lab_argument, with_output, yes_option
from provisioner.cli.output import Output
from provisioner.cli.plan_context import require_lock
from provisioner.cli.run_context import hold_lab
from provisioner.domain.lab.environment_list import ENVIRONMENTS_SCHEMA, list_environments, removal_problem
from provisioner.domain.lab.kept import kept_environments
from provisioner.domain.lab.lock import Lockfile
from provisioner.domain.people.environments import environment_users
from provisioner.domain.values.problem import ProblemError


def _complete_kept(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:  # noqa: ARG001
    """Return the kept environments of the lab whose name starts with `incomplete`; none where its lock has mistakes."""
    try:
        kept = kept_environments(read_lock(find_lab(ctx.params["lab"]) / LOCK_FILE))
    except ProblemError:
        return []
    return [CompletionItem(name) for name in kept if name.startswith(incomplete)]


def _check(directory: LabDirectory, name: str) -> Lockfile:
    """Return the lock as it is now. Raises ProblemError (usage) where the environment cannot be removed from it."""
    lock = require_lock(directory)
    users = tuple(environment_users(directory.lab, directory.people, name))
    if refused := removal_problem(name, directory.lab, lock, users):
        raise ProblemError(refused, "usage")
    return lock


@click.command("remove", epilog=example("provision environments remove ai-lab 2026s"))
@lab_argument
@click.argument("name", metavar="NAME", shell_complete=_complete_kept)
@yes_option
@with_output
def remove_command(lab: str, name: str, yes: bool, output: Output) -> int:
    """Take the environment NAME, which `provision upgrade --keep-as` has kept, out of lab.lock.

    Refused while seat.environment or a row of the roster names it. No node changes: seats go on with its image until
    the next rollout, and `provision registry gc` removes images that nothing uses any more.
    """
    directory = read_lab(lab)
    _check(directory, name)
    if not (yes or output.confirm(f"Remove the environment {name} from {directory.lock}?")):
        output.note("Nothing was changed.")
        return FAILED
    # A run at the same time may be writing lab.lock.
    with hold_lab(directory.lab.name, open_run(directory.lab.name).run, "environments remove"):
        lock = _check(directory, name)
        rest = {one: environment for one, environment in lock.environments.items() if one != name}
        lock = lock.model_copy(update={"environments": rest})
        write_lock(directory.lock, lock)
    output.document(ENVIRONMENTS_SCHEMA, list_environments(directory.lab, lock))
    output.note(
        f"{directory.lock} has no environment {name} any more; commit it. Seats that run it keep its image until the"
        f" next rollout: provision rollout {directory.path}"
    )
    note_old_signature(directory, output)
    return DONE
