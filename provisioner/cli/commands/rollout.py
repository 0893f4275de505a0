"""`provision rollout`: bring every node to what the lock requires."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import click

from provisioner.adapters.lab.directory import LabDirectory, read_lab
from provisioner.adapters.lab.documents import read_document
from provisioner.adapters.lab.lockfile import read_lock, write_lock
from provisioner.adapters.state.files import read_text
from provisioner.cli.commands.lock import note_old_signature, save_lock
from provisioner.cli.execute import SERVED, execute_run, note_expected, show_plan
from provisioner.cli.exit_codes import FAILED
from provisioner.cli.maintenance import check_maintenance
from provisioner.cli.options import ChangeOptions, Overrides, changes_nodes, example, fresh_option, lab_argument
from provisioner.cli.output import Output
from provisioner.cli.plan_context import PlanContext, note_cautions, require_lock
from provisioner.cli.run_context import OpenRun, build_claim, open_run_context
from provisioner.cli.wiring import new_lock, open_fleet, own_version, plan_inputs, recheck_registry
from provisioner.console.problems import problems
from provisioner.console.text import count
from provisioner.domain.lab.lock import Lockfile, Placement
from provisioner.domain.rollout.busy import DEFER, WhenBusy
from provisioner.domain.rollout.order import build_order
from provisioner.domain.rollout.plan import Plan
from provisioner.domain.rollout.run_spec import Rules, RunSpec, Verb, build_run_spec
from provisioner.domain.rollout.stale import find_stale_nodes
from provisioner.domain.self_service.publication import Publication
from provisioner.domain.values.claim import Claim
from provisioner.domain.values.node import NodeFacts
from provisioner.domain.values.problem import Problem, ProblemError
from provisioner.workflow.probe import probe
from provisioner.workflow.protocols import Fleet, SupportsDiskLimits
from provisioner.workflow.rollout.claims import refuse_claimed
from provisioner.workflow.rollout.plan import build_plan, changed_disk_limits
from provisioner.workflow.rollout.preflight import images_to_pull
from provisioner.workflow.rollout.publications import publication_orders

plan_option = click.option(
    "--plan",
    "saved",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Apply this saved plan; exit 6 where a node has changed since.",
)
skip_stale_option = click.option(
    "--skip-stale", is_flag=True, help="With --plan: skip nodes that have changed since, and continue with the others."
)


class PlannedRun(NamedTuple):
    """What a run knows before it asks for confirmation. `stale`: nodes that changed since the plan was reviewed."""

    directory: LabDirectory
    lock: Lockfile
    context: PlanContext
    stale: frozenset[str] = frozenset()

    @property
    def plan(self) -> Plan:
        """The difference between what runs and what the lock requires."""
        return self.context.prepared.plan

    @property
    def nodes(self) -> list[str]:
        """The nodes that change."""
        return [node for node in self.plan.changed_nodes if node not in self.stale]

    @property
    def forced_leases(self) -> int:
        """How many seats with a lease the run restarts for their new version, which `force` does."""
        if self.plan.when_busy.policy != "force":
            return 0
        return sum(_outdated_leases(one, self.context.probed[one.node]) for one in self.plan.publications)

    def question(self, question: str) -> str:
        """Return a question for confirmation, with how many seats with a lease are restarted."""
        leases = (
            f" {count(self.forced_leases, 'seat')} with a lease: what runs there ends." if self.forced_leases else ""
        )
        return f"{question}{leases}"

    def claims(self, run: str, verb: Verb) -> dict[str, Claim]:
        """Return what the run would claim on each node that changes."""
        claims = self.plan.claims(build_claim(run, self.directory.lab.name, verb, self.context.probed))
        return {node: claims[node] for node in self.nodes}


def _outdated_leases(publication: Publication, facts: NodeFacts | Problem) -> int:
    """Return how many leases are of seats with another version than the published one."""
    found = facts.self_service if isinstance(facts, NodeFacts) else None
    versions = publication.environments if publication.action in SERVED else {}
    leases = found.leases if found else ()
    return sum(lease.version != versions.get(lease.environment, lease.version) for lease in leases)


@click.command(epilog=example("provision rollout ai-lab --limit gpu01\n  provision rollout ai-lab --when-busy wait:2h"))
@lab_argument
@plan_option
@skip_stale_option
@fresh_option
@changes_nodes
def rollout(*, lab: str, saved: Path | None, skip_stale: bool, fresh: bool, options: ChangeOptions) -> int:
    """Roll out the lab: probe, lock where there is no lock, plan, confirm, change nodes in waves, verify, report.

    Exit 0 only if every node is done; 4 where the only nodes left are deferred, because their GPUs are in use or
    because this is outside the maintenance windows. A saved plan contains its own --when-busy.
    """
    directory = read_lab(lab)
    reviewed = None if saved is None else read_document(str(saved), read_text(saved, "provision plan -o FILE"), Plan)
    when_busy = _busy_policy(reviewed, options.overrides)
    output, breaks = options.output, options.run.break_lock

    with (
        open_run_context(directory.lab.name, "rollout", breaks, output) as run,
        open_fleet(directory, options.ansible, output.verbose, run.on_event) as fleet,
    ):
        places = reviewed.places if reviewed else {}
        planned = plan_run(directory, run, fleet, when_busy, fresh=fresh, limit=options.ansible.limit, places=places)
        if reviewed is not None:
            planned = planned._replace(stale=_stale_nodes(reviewed, planned.plan, skip_stale))
        gate = check_maintenance(directory.lab.rollout.calendar, planned.plan, options.overrides, run.on_event)
        refuse_claimed(planned.context.probed, planned.claims(run.journal.run, "rollout"), breaks)
        question = planned.question(f"Roll this out to {count(len(planned.nodes), 'node')}?")
        if (planned.nodes or planned.forced_leases) and not (options.yes or output.confirm(question)):
            output.note("Nothing was changed.")
            return FAILED
        recheck_planned(planned, run)
        keep_places(planned, output)
        run_spec = build_run_spec_from_plan(planned, run.journal.run, options)
        code = execute_run(run, run_spec, fleet, breaks=breaks, gate=gate)
        set_disk_limits(planned, run, fleet)
        return code


def _busy_policy(reviewed: Plan | None, overrides: Overrides) -> WhenBusy:
    """Return the policy of a saved plan, since it was reviewed with that one; else that of the flags."""
    if reviewed is None:
        return overrides.when_busy
    if overrides.when_busy not in {DEFER, reviewed.when_busy}:
        raise click.UsageError("the saved plan has its own --when-busy: make and review it again, with this one")
    return reviewed.when_busy


def plan_run(  # noqa: PLR0913  (the lab, its nodes, and how to plan)
    directory: LabDirectory,
    run: OpenRun,
    fleet: Fleet,
    when_busy: WhenBusy,
    *,
    fresh: bool,
    limit: str | None,
    places: Mapping[str, Placement],
) -> PlannedRun:
    """Probe the nodes, make a lock where there is none, build the plan and show it.

    `places`: of people, as a plan that was reviewed has them.
    """
    lock, made = read_lock(directory.lock), None
    with run.progress():
        probed = probe(fleet, run.on_event)
        if lock is None:
            made = new_lock(directory, probed, run.on_event, fresh=fresh)
            lock = made.result.lock
        lock = lock.model_copy(update={"people": _reviewed_places(lock.people, places)})
        prepared = build_plan(plan_inputs(directory, lock, limit), fleet.hosts(), probed, when_busy=when_busy)
    if made is not None:
        save_lock(directory, made, run.output)
    run.journal.keep("plan", prepared.plan)
    show_plan(run.output, prepared.plan)
    note_expected(directory, lock, prepared.plan, run.output)
    note_cautions(directory, run.output)
    return PlannedRun(directory, lock, PlanContext(probed, prepared))


def _reviewed_places(before: Mapping[str, Placement], places: Mapping[str, Placement]) -> dict[str, Placement]:
    """Return the places of the lock with those of a plan, except where somebody was stopped or started since."""
    changed = {name for name in places if name in before and before[name].stopped != places[name].stopped}
    return {**before, **{name: held for name, held in places.items() if name not in changed}}


def keep_places(planned: PlannedRun, output: Output) -> None:
    """Write the places of people into lab.lock, where the plan gives somebody another one."""
    places, before = planned.plan.places, require_lock(planned.directory)
    if places == before.people:
        return
    write_lock(planned.directory.lock, before.model_copy(update={"people": places}))
    output.note(f"{planned.directory.lock} remembers where people sit; commit it.")
    note_old_signature(planned.directory, output)


def recheck_planned(planned: PlannedRun, run: OpenRun) -> None:
    """Check the registry before the first change. Raises ProblemError where an image to be pulled is incomplete."""
    if planned.nodes:
        with run.progress():
            recheck_registry(planned.directory, images_to_pull(planned.context.prepared), run.on_event)


def set_disk_limits(planned: PlannedRun, run: OpenRun, fleet: SupportsDiskLimits) -> None:
    """Set the limits of the disk that nodes do not have yet, also where no seat changes. The next run tries again."""
    limits = changed_disk_limits(planned.context.prepared, planned.context.probed)
    if not limits or run.stop():
        return
    with run.progress():
        records = fleet.limit_disks(limits, run.journal.run)
    run.output.note(
        problems(((record.node, found) for record in records.values() for found in record.problems), "yellow")
    )
    changed = sum(seat.state == "committed" for record in records.values() for seat in record.seats)
    if changed:
        run.output.note(f"{count(changed, 'seat')}: the limit of the disk was set; nothing restarts for it.")


def build_run_spec_from_plan(
    planned: PlannedRun, run: str, options: ChangeOptions, verb: Verb = "rollout", rules: Rules | None = None
) -> RunSpec:
    """Build the run spec of a confirmed plan, with a claim on its nodes. `rules` replaces those of lab.yml."""
    lab = planned.directory.lab
    ca, when_busy = planned.lock.registry_ca, planned.plan.when_busy
    orders = {
        node: {seat: build_order(bundle, lab, run, ca=ca, when_busy=when_busy) for seat, bundle in bundles.items()}
        for node, bundles in planned.context.prepared.bundles.items()
    }
    return build_run_spec(
        run,
        planned.plan,
        orders,
        rules or Rules.of(lab.rollout, options.run.allow_unreachable),
        datetime.now(UTC),
        stale=planned.stale,
        verb=verb,
        place=str(planned.directory.path),
        ignore_freeze=options.overrides.ignore_freeze or "",
        publications=publication_orders(
            planned.plan.publications, planned.context.prepared.published, run, own_version(), when_busy
        ),
    ).with_claim(build_claim(run, lab.name, verb, planned.context.probed))


def _stale_nodes(reviewed: Plan, now: Plan, skip: bool) -> frozenset[str]:
    """Return the nodes that changed since the review. Raises ProblemError (stale) unless they are skipped."""
    problems = find_stale_nodes(reviewed, now)
    if problems and not (skip and reviewed.lab == now.lab):
        raise ProblemError(problems, "stale")
    return frozenset(problem.node for problem in problems if problem.node)
