"""`make demo`: the main job on a lab of three machines, all on this one, left running.

The command itself does the admin's part; what is checked here at the end is what a student would do: open JupyterLab
with the token and without, and log in by SSH. It leaves a `demo.env` behind: a shell that reads it can use `provision`
on the demo's lab, with the demo's own Docker Engine and records.
"""

import json
import os
import shlex
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

import yaml

from tests.lab.bed import Lab, make_key
from tests.lab.engine import Engine
from tests.lab.steps import setup
from tests.lab.tags import push_demo_tags

PROGRAM = Path(sys.executable).with_name("provision")
PREFIX = "demo"
PROFILES = ("rtx5090x2-580", "rtx4090-570", "v100-535")
LAST_SEMESTER = {"torch": ">=2.8,<2.10"}  # leaves something to upgrade to
ENV_FILE = Path("demo.env")  # in the folder in which make runs
TO_TRY = (
    ("what runs where, held against the lock", 'provision status "$LAB" --urls'),
    ("the next semester: a newer torch for everybody", 'provision upgrade "$LAB" --torch 2.10'),
    ("and back to what ran before, offline", 'provision rollback "$LAB"'),
)


def main(act: str) -> int:
    if act == "down":
        Lab(PREFIX).down()
        ENV_FILE.unlink(missing_ok=True)
        print("The demo is gone; `python -m tests.lab engine stop` also stops the engine that it ran on.")
        return 0
    engine = setup(print)
    lab = Lab(PREFIX)
    folder = lab.folder / "lab"
    if not folder.exists():
        lab.down()
        bring_up(lab, folder)
    command = Command(engine, lab)
    command.show("rollout", str(folder), "--yes")
    command.show("rollout", str(folder), "--yes")
    return report(command, lab, folder)


def bring_up(lab: Lab, folder: Path) -> None:
    print(f"Starting a mirror, the lab's registry and {len(PROFILES)} nodes: {', '.join(PROFILES)}")
    lab.up(PROFILES)
    tags = push_demo_tags(lab.mirror)
    print(f"The mirror {lab.mirror.address} has {len(tags)} tags of pytorch/pytorch")
    write_lab(lab, folder, image=LAST_SEMESTER)


def write_lab(lab: Lab, folder: Path, **over: object) -> None:
    """The lab's directory, as an admin would have written it. `over` replaces whole parts of lab.yml."""
    folder.mkdir(parents=True)
    make_key(student_key(lab))
    (folder / "hosts.yml").write_text(lab.inventory_text())
    wish = {
        "name": lab.prefix,
        "mirror": {"address": lab.mirror.address, "ca": str(lab.ca)},
        "registry": {"address": lab.registry.address, "ca": str(lab.ca)},
        "services": {"jupyter": {"bind": "lan"}, "ssh": {"bind": "lan"}},
        "seat": {"authorized_keys": [str(student_key(lab).with_suffix(".pub"))]},
    }
    (folder / "lab.yml").write_text(yaml.safe_dump(wish | over, sort_keys=False))


def student_key(lab: Lab) -> Path:
    return lab.folder / "student_ed25519"


class Command:
    """`provision`, as whoever runs the lab would call it, with its records kept beside the lab."""

    def __init__(self, engine: Engine, lab: Lab, program: Path = PROGRAM) -> None:
        self._program = program
        state = {name: str(lab.folder / name.lower()) for name in ("XDG_STATE_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME")}
        self.own_env = engine.client_env() | state
        self.env = {**os.environ, **self.own_env}

    def env_file(self, folder: Path) -> str:
        """Shell lines that make `provision` in any POSIX shell act as it does here; `$LAB` is the lab's directory."""
        values = self.own_env | {"LAB": str(folder)}
        path = f"export PATH={shlex.quote(str(self._program.parent))}:$PATH\n"
        return path + "".join(f"export {name}={shlex.quote(value)}\n" for name, value in values.items())

    def run(self, *words: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self._program, *words],
            env=self.env | dict(env or {}),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            cwd="/",
        )

    def show(self, *words: str) -> None:
        """Runs it before the reader's eyes, and ends where it fails."""
        print(f"\n$ provision {' '.join(words)}", flush=True)
        code = subprocess.run([self._program, *words], env=self.env, check=False).returncode
        if code:
            sys.exit(code)


def report(command: Command, lab: Lab, folder: Path) -> int:
    """Checks every seat as a student would, and prints how to reach it."""
    found = json.loads(command.run("status", str(folder), "--urls", "--json").stdout)
    print("\nEvery seat, as a student finds it:")
    good = [show_seat(seat, found["urls"][seat["node"]], lab) for seat in found["seats"]]
    ENV_FILE.write_text(command.env_file(folder))
    print(f"\nTry it yourself. The lab's directory: {folder}\n\n  . ./{ENV_FILE}")
    for text, line in TO_TRY:
        print(f"  {line:<45}  # {text}")
    print("\nTake it all away with `make demo-down`.")
    return 0 if all(good) else 1


def show_seat(seat: dict[str, dict[str, str]], url: str, lab: Lab) -> bool:
    ssh = ssh_command(seat["access"]["ssh"], seat["access"]["host_key"], student_key(lab), lab.folder)
    login = subprocess.run([*ssh, "id -un; nvidia-smi -L"], capture_output=True, text=True, check=False)
    with_token, without = http_status(url), http_status(url.partition("?")[0].replace("/lab", "/api/contents"))
    print(f"\n{seat['node']}\n  {url}\n    HTTP {with_token} with the token, {without} without")
    print(f"  {' '.join(ssh)}\n    {' · '.join(login.stdout.splitlines()) or login.stderr.strip()}")
    return (with_token, without, login.returncode) == (200, 403, 0)


def ssh_command(way: str, host_key: str, key: Path, folder: Path) -> list[str]:
    """The SSH command of a seat with the student's key, and the seat's host key held fast."""
    _, _, port, target = way.split()
    known = folder / f"known_hosts_{port}_{target}"
    known.write_text(f"[{target.partition('@')[2]}]:{port} {host_key}\n")
    options = ("-o", f"UserKnownHostsFile={known}", "-o", "StrictHostKeyChecking=yes", "-o", "BatchMode=yes")
    return ["ssh", "-F", "none", *options, "-i", str(key), "-p", port, target]


def http_status(url: str) -> int:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=10) as response:
            return int(response.status)
    except urllib.error.HTTPError as refused:
        refused.close()
        return refused.code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
