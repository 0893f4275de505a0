"""A controller as a separate process, on nodes that are small files; it can be killed or suspended at a moment.

python -m tests.cli.controller {rollout | resume | rollback} NODES [--die MOMENT | --wait MOMENT]
python -m tests.cli.controller serve: forks a controller for each line of stdin, and prints its exit status
"""

import gc
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from provisioner.cli.commands.resume import find_open_run, finish_run, report_nothing_to_resume
from provisioner.cli.errors import report_error
from provisioner.cli.execute import execute_run
from provisioner.cli.options import RunOptions
from provisioner.cli.output import Output
from provisioner.cli.run_context import build_claim, open_run_context, reopen_run_context
from provisioner.domain.rollout.plan import Action
from provisioner.domain.rollout.run_spec import Rules, RunSpec, build_run_spec
from provisioner.workflow.rollout.rollback import plan_rollback, rollback_orders
from tests.workflow.fake_fleet import FakeFleet, a_plan, orders_of

RULES = Rules(("1", "100%"))


def main(verb: str, folder: Path, *how: str) -> int:
    """`--die` and `--wait` take a moment as FakeFleet names it; a wait ends when the file `go` exists."""
    output = Output(as_json=True)
    fleet = FakeFleet(folder, at=lambda moment: _at(moment, folder, how))
    if verb == "resume":
        interrupted = find_open_run("demo", None)
        if interrupted is None:
            return report_nothing_to_resume("demo", output)
        with reopen_run_context("demo", interrupted, "", output) as run:
            return finish_run(run, fleet, RunOptions())
    with open_run_context("demo", "rollout", "", output) as run:
        name = run.journal.run
        run_spec = _rollout(fleet, name) if verb == "rollout" else _rollback(fleet, name)
        return execute_run(run, run_spec, fleet)


def _rollout(fleet: FakeFleet, run: str) -> RunSpec:
    probed = fleet.probe([host.name for host in fleet.hosts()])
    actions: dict[str, Action] = dict.fromkeys(probed, "update")
    orders = orders_of(*probed, run=run)
    made = build_run_spec(
        run, a_plan(actions, generation=1), orders, RULES, datetime.now(UTC), place="inventories/demo"
    )
    return made.with_claim(build_claim(run, "demo", "rollout", probed))


def _rollback(fleet: FakeFleet, run: str) -> RunSpec:
    probed = fleet.probe([host.name for host in fleet.hosts()])
    plan = plan_rollback("demo", "student", fleet.hosts(), probed, None)
    made = build_run_spec(
        run, plan, {}, RULES, datetime.now(UTC), verb="rollback", place="demo", back=rollback_orders(plan, run, None)
    )
    return made.with_claim(build_claim(run, "demo", "rollback", probed))


def _at(moment: str, folder: Path, how: tuple[str, ...]) -> None:
    if how[1:] != (moment,):
        return
    if how[0] == "--die":
        os.kill(os.getpid(), signal.SIGKILL)
    sys.stderr.write("waiting\n")
    sys.stderr.flush()
    while not (folder.parent / "go").exists():
        time.sleep(0.05)


def run(argv: Sequence[str]) -> int:
    try:
        return main(argv[0], Path(argv[1]), *argv[2:])
    except BaseException as error:  # noqa: BLE001  (as the command does)
        return report_error(error, ["--json"])


def serve() -> None:
    gc.freeze()  # else the first collection of each fork copies all objects
    os.fsync = lambda _: None  # type: ignore[assignment]  # a killed process loses nothing that it has written
    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()
        if not child:
            os.environ.update(order["environment"])
            for number, path in enumerate((os.devnull, *order["outputs"])):
                os.dup2(os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC), number)
            code = run(order["argv"])
            sys.stdout.flush()
            os._exit(code)  # to end the interpreter would take longer than the run
        sys.stdout.write(f"{os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        serve()
    else:
        sys.exit(run(sys.argv[1:]))
