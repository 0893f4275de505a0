"""A controller as a process of its own, on nodes that are small files; it can be made to die or to wait at a moment.

python -m tests.cli.controller {rollout | resume | rollback} NODES [--die MOMENT | --wait MOMENT]
"""

import os
import signal
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from provisioner.cli.commands.resume import finish
from provisioner.cli.errors import end
from provisioner.cli.execute import execute_run
from provisioner.cli.options import RunOptions
from provisioner.cli.output import Output
from provisioner.cli.run_context import claim_for, open_run_context
from provisioner.domain.rollout.plan import Action
from provisioner.domain.rollout.run_spec import Rules, RunSpec, build_run_spec
from provisioner.workflow.rollout.rollback import back_orders, rollback
from tests.workflow.fake_fleet import SEAT, FakeFleet, a_plan, an_order

RULES = Rules(("1", "100%"))


def main(verb: str, folder: Path, *how: str) -> int:
    """`--die` and `--wait` are followed by a moment as FakeFleet names them; a wait ends with a file `go`."""
    output = Output(as_json=True)
    fleet = FakeFleet(folder, at=lambda moment: _at(moment, folder, how))
    if verb == "resume":
        return finish("demo", None, lambda _: fleet, RunOptions(), output)
    with open_run_context("demo", "rollout", "") as journal:
        what = _rollout(fleet, journal.run) if verb == "rollout" else _rollback(fleet, journal.run)
        return execute_run(output, journal, what, lambda _: fleet)


def _rollout(fleet: FakeFleet, run: str) -> RunSpec:
    probed = fleet.probe([host.name for host in fleet.hosts()])
    actions: dict[str, Action] = dict.fromkeys(probed, "update")
    orders = {node: an_order(node, run) for node in probed}
    made = build_run_spec(
        run, a_plan(actions, generation=1), orders, RULES, datetime.now(UTC), place="inventories/demo"
    )
    return made.with_claim(claim_for(run, "demo", "rollout", probed))


def _rollback(fleet: FakeFleet, run: str) -> RunSpec:
    probed = fleet.probe([host.name for host in fleet.hosts()])
    plan = rollback("demo", SEAT, fleet.hosts(), probed, None)
    made = build_run_spec(
        run, plan, {}, RULES, datetime.now(UTC), verb="rollback", place="demo", back=back_orders(plan, run, None)
    )
    return made.with_claim(claim_for(run, "demo", "rollback", probed))


def _at(moment: str, folder: Path, how: tuple[str, ...]) -> None:
    if how[1:] != (moment,):
        return
    if how[0] == "--die":
        os.kill(os.getpid(), signal.SIGKILL)
    sys.stderr.write("waiting\n")
    sys.stderr.flush()
    while not (folder.parent / "go").exists():
        time.sleep(0.05)


if __name__ == "__main__":
    try:
        code = main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
    except BaseException as error:  # noqa: BLE001  (as the command does)
        code = end(error, ["--json"])
    sys.exit(code)
