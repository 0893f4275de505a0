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
from provisioner.cli.execute import carry_out
from provisioner.cli.options import Care
from provisioner.cli.output import Voice
from provisioner.cli.run_context import claim_for, entered
from provisioner.domain.rollout.plan import Action
from provisioner.domain.rollout.run_spec import Rules, Undertaking, set_out
from provisioner.workflow.rollout.rollback import back_orders, rollback
from tests.workflow.fake_fleet import SEAT, FakeCrew, a_plan, an_order

RULES = Rules(("1", "100%"))


def main(verb: str, folder: Path, *how: str) -> int:
    """`--die` and `--wait` are followed by a moment as FakeCrew names them; a wait ends with a file `go`."""
    voice = Voice(as_json=True)
    crew = FakeCrew(folder, at=lambda moment: _at(moment, folder, how))
    if verb == "resume":
        return finish("demo", None, lambda _: crew, Care(), voice)
    with entered("demo", "rollout", "") as journal:
        what = _rollout(crew, journal.run) if verb == "rollout" else _rollback(crew, journal.run)
        return carry_out(voice, journal, what, lambda _: crew)


def _rollout(crew: FakeCrew, run: str) -> Undertaking:
    probed = crew.probe([host.name for host in crew.hosts()])
    actions: dict[str, Action] = dict.fromkeys(probed, "update")
    orders = {node: an_order(node, run) for node in probed}
    made = set_out(run, a_plan(actions, generation=1), orders, RULES, datetime.now(UTC), place="inventories/demo")
    return made.held_by(claim_for(run, "demo", "rollout", probed))


def _rollback(crew: FakeCrew, run: str) -> Undertaking:
    probed = crew.probe([host.name for host in crew.hosts()])
    plan = rollback("demo", SEAT, crew.hosts(), probed, None)
    made = set_out(
        run, plan, {}, RULES, datetime.now(UTC), verb="rollback", place="demo", back=back_orders(plan, run, None)
    )
    return made.held_by(claim_for(run, "demo", "rollback", probed))


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
