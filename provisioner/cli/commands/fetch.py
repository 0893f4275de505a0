"""`provision fetch`: bring the locked images to the nodes before a rollout."""

from datetime import UTC, datetime

import click

from provisioner.adapters.lab.directory import LabDirectory, read_lab
from provisioner.adapters.state.journal import open_run
from provisioner.cli.execute import exit_code
from provisioner.cli.options import AnsibleOptions, example, lab_argument, with_ansible_options, with_output
from provisioner.cli.output import Output
from provisioner.cli.plan_context import build_context, require_lock
from provisioner.cli.run_context import OpenRun
from provisioner.cli.wiring import open_fleet, plan_inputs, recheck_registry
from provisioner.console.report import report_view
from provisioner.console.text import count
from provisioner.domain.rollout.fetch import FETCH_MEANINGS
from provisioner.domain.rollout.report import REPORT_SCHEMA, RolloutReport
from provisioner.domain.values.event import Event
from provisioner.domain.values.problem import ProblemError
from provisioner.domain.values.size import human_size, size_bytes
from provisioner.workflow.protocols import SupportsFetch
from provisioner.workflow.rollout.fetch import AT_ONCE, Fetched, Fetching, FetchRules, plan_fetch
from provisioner.workflow.rollout.fetch import fetch as fetch_images


@click.command(epilog=example("provision fetch ai-lab\n  30 1 * * * provision fetch ~/ai-lab   # in a crontab"))
@lab_argument
@with_ansible_options
@with_output
def fetch(*, lab: str, ansible: AnsibleOptions, output: Output) -> int:
    """Bring the images of the lock to the nodes, the night before a rollout: the switch then takes minutes.

    Nothing that runs is changed, also on nodes whose GPUs are in use. What a node has is not pulled again, and a
    fetch that was interrupted goes on where it ended. Images are kept from `docker image prune` until a seat runs them.

    Exit 4 outside rollout.fetch.windows, 1 where a node lacks an image afterwards, 130 after a stop.
    """
    directory = read_lab(lab)
    lock = require_lock(directory)
    settings = directory.lab.rollout
    bandwidth = size_bytes(settings.fetch.bandwidth) if settings.fetch.bandwidth else None
    rules = FetchRules(settings.fetch_calendar, settings.pull_concurrency or AT_ONCE, bandwidth)
    began = datetime.now(UTC)
    run = OpenRun.of(open_run(directory.lab.name), output)
    with open_fleet(directory, ansible, output.verbose, run.on_event) as nodes:
        with run.progress():
            context = build_context(plan_inputs(directory, lock, ansible.limit), nodes, run.on_event)
        fetching = plan_fetch(context.prepared, context.probed, directory.lab, run.journal.run, lock.registry_ca)
        fetched = _fetch(directory, run, fetching, nodes, rules)
    report = RolloutReport(
        lab=directory.lab.name,
        run=run.journal.run,
        started_at=began,
        ended_at=datetime.now(UTC),
        image=context.prepared.plan.image,
        nodes=fetched.records,
        stopped=fetched.stopped,
    )
    run.journal.keep("report", report)
    output.document(REPORT_SCHEMA, report)
    output.show(report_view(report, dict(FETCH_MEANINGS)))
    if report.done:
        output.note(f"Next: provision rollout {lab}")
    return exit_code(report)


def _fetch(
    directory: LabDirectory, run: OpenRun, fetching: Fetching, nodes: SupportsFetch, rules: FetchRules
) -> Fetched:
    """Fetch where anything is lacking. Raises ProblemError (deferred) where no pull may begin now."""
    if fetching.orders and (problem := rules.calendar.closed_for_fetch(datetime.now(UTC))):
        raise ProblemError(problem, "deferred")
    with run.changing_nodes():
        if fetching.orders:
            recheck_registry(directory, fetching.images, run.on_event)
            lacking = human_size(sum(fetching.sizes.values()))
            text = f"{lacking} to {count(len(fetching.orders), 'node')}, {rules.at_once} at a time"
            run.on_event(Event(phase="fetch", kind="note", text=text))
        return fetch_images(fetching, nodes, rules, run)
