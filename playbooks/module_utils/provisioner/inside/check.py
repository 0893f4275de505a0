"""The check of what lab.yml sets inside: once for each node, run and environment, from a container of it.

What it finds are cautions: a mirror that does not answer fails no seat.

STATE_ROOT/node/inside.json    the environments that the latest run has checked
"""

from __future__ import annotations

import fcntl
import inspect
import json
from pathlib import Path
from typing import Any, Sequence

from ansible.module_utils.provisioner.base.command import run
from ansible.module_utils.provisioner.base.files import read, write_atomic
from ansible.module_utils.provisioner.base.problem import ProblemError
from ansible.module_utils.provisioner.docker.engine import client_environment
from ansible.module_utils.provisioner.inside import reach
from ansible.module_utils.provisioner.seat.compose import exec_python

QUESTIONS = "inside.json"  # of the files of a document
SCHEMA = "provisioner/inside/1"
SECONDS = 15.0
KILL_SECONDS = 10
MOST_TEXT = 400
# When a module runs, the archive that it came in may be gone.
PROGRAM = inspect.getsource(reach)
SAYS = {
    "limited": "answers with 429, too many requests",
    "login_page": "is answered by a page for people in its place, such as the login of a network",
    "refused": "does not give what was asked for",
    "unreachable": "does not answer",
    "proxy_failed": "cannot be asked, because the proxy passes nothing on",
}
FIXES = {
    "limited": "wait, or name another one: all seats of a network count as one client there",
    "login_page": "log the node in at the network, or name one in lab.yml that is reached without a login",
    "refused": "check its address in lab.yml",
    "unreachable": "check its address in lab.yml, and the network and DNS of the node; in a seat: curl -v ADDRESS",
    "proxy_failed": "check inside.proxy in lab.yml, and whether the proxy lets the node in",
}
NAMES = {"index": ("The package index", "inside.pip_index"), "hf": ("The Hugging Face endpoint", "inside.hf_endpoint")}


def check_seat(order: dict[str, Any], questions: str, container: str) -> list[dict[str, str]]:
    """Check from a running seat, unless another one of its environment was asked in this run. Return cautions."""
    if not _is_first(order):
        return []
    seat = order["seat"]
    return _ask(exec_python(container, f"{seat['uid']}:{seat['gid']}"), questions)


def check_trial(name: str, argv: Sequence[str], questions: str) -> list[dict[str, str]]:
    """Check from a new container with the words `argv`, called `name`. Return cautions, none without questions."""
    if not questions:
        return []
    variables = [word for pair in json.loads(questions)["variables"].items() for word in ("--env", "=".join(pair))]
    remove, environment = ["docker", "rm", "-f", name], client_environment()
    run(remove, KILL_SECONDS, env=environment)  # left by a killed job
    try:
        return _ask(["docker", "run", "--rm", "-i", "--name", name, *variables, *argv], questions)
    finally:
        run(remove, KILL_SECONDS, env=environment)


def _ask(argv: Sequence[str], questions: str) -> list[dict[str, str]]:
    try:
        ran = run([*argv, questions], SECONDS, text=PROGRAM, env=client_environment())
    except ProblemError as fault:
        return [_unknown(fault.problem["what"])]
    found = parse_results(ran.out)
    if not found:
        return [_unknown(ran.message)]
    return [problem for name, value in found.items() for problem in _cautions(name, *value)]


def parse_results(text: str) -> dict[str, tuple[str, str]]:
    """Return outcome and detail by question, empty without a valid result: a student can change what is printed.

    It is the last line: others may come before it.
    """
    try:
        found = json.loads(text.strip().rpartition("\n")[2])
        return {name: (str(found[name]["outcome"]), str(found[name]["detail"])) for name in reach.ASK if name in found}
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}


def _cautions(name: str, outcome: str, detail: str) -> list[dict[str, str]]:
    if outcome == "reachable":
        return []
    if name in NAMES and outcome in SAYS:
        return [_caution(name, outcome, detail)]
    return [_no_proxy_in_jupyter() if outcome == "missing" else _unknown(detail)]


def _caution(name: str, outcome: str, detail: str) -> dict[str, str]:
    who, key = NAMES[name]
    return ProblemError(
        f"{name}_{outcome}",
        f"{who} {SAYS[outcome]}, asked from inside of a seat: {detail[:MOST_TEXT]}",
        f"programs in seats use it, because {key} in lab.yml names it; seats work without it",
        FIXES[outcome],
    ).problem


def _no_proxy_in_jupyter() -> dict[str, str]:
    return ProblemError(
        "extra_missing",
        "services.extra in lab.yml names ports, and the image's own Jupyter cannot show them",
        "that needs jupyter-server-proxy, which is in each lab image that provisioner gives a Jupyter to",
        "install jupyter-server-proxy beside the Jupyter of the image, or remove services.extra",
    ).problem


def _unknown(detail: str) -> dict[str, str]:
    return ProblemError(
        "inside_unknown",
        f"what answers inside of a seat is not known: {detail[:MOST_TEXT]}",
        "a program in a container asks the servers that lab.yml names, and it had no result; seats work without it",
        "try in a seat: pip download --no-deps pip; the next rollout asks again",
    ).problem


def _is_first(order: dict[str, Any]) -> bool:
    """Return whether this environment was not checked yet in this run, and note it.

    False where it cannot be noted: else each of 60 seats would ask.
    """
    path, environment = Path(order["state_root"]) / "node" / QUESTIONS, order["seat"].get("environment", "default")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            checked = _checked(path, order["run"])
            if environment in checked:
                return False
            write_atomic(path, json.dumps({"schema": SCHEMA, "run": order["run"], "checked": [*checked, environment]}))
    except OSError:
        return False
    return True


def _checked(path: Path, of_run: str) -> list[str]:
    """Return the environments that a run has checked; none from a damaged file."""
    try:
        found = json.loads(read(path))
        return [str(name) for name in found["checked"]] if found["run"] == of_run else []
    except (ValueError, KeyError, TypeError):
        return []
