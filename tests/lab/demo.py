"""`make demo`: a rollout to a lab of three nodes, all on this machine, left running.

The command does what an admin does; at the end this module does what a student does: it opens JupyterLab with and
without the token, and logs in by SSH. It writes `demo.env`: a shell that reads it can use `provision` on the demo's
lab, with the demo's Docker Engine and records.
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
LAST_SEMESTER = {"torch": ">=2.8,<2.10"}  # older than the newest torch, so that an upgrade is possible
ENV_FILE = Path("demo.env")  # in the working directory of make
TO_TRY = (
    ("what runs where, compared with the lock", 'provision status "$LAB" --urls'),
    ("the next semester: a newer torch for all nodes", 'provision upgrade "$LAB" --torch 2.10'),
    ("roll back to the previous environment, offline", 'provision rollback "$LAB"'),
)


def main(act: str) -> int:
    if act == "down":
        Lab(PREFIX).down()
        ENV_FILE.unlink(missing_ok=True)
        print("The demo is removed; `python -m tests.lab engine stop` also stops the engine that it ran on.")
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
    """Write the lab directory; `over` replaces whole sections of lab.yml."""
    folder.mkdir(parents=True)
    make_key(student_key(lab))
    (folder / "hosts.yml").write_text(lab.inventory_text())
    settings = {
        "name": lab.prefix,
        "mirror": {"address": lab.mirror.address, "ca": str(lab.ca)},
        "registry": {"address": lab.registry.address, "ca": str(lab.ca)},
        "image": {"tools": False},  # they take a minute of apt, and tests/adapters/engine/test_lab_image.py has them
        "services": {"jupyter": {"bind": "lan"}, "ssh": {"bind": "lan"}},
        "seat": {"authorized_keys": [str(student_key(lab).with_suffix(".pub"))]},
    }
    (folder / "lab.yml").write_text(yaml.safe_dump(settings | over, sort_keys=False))


def student_key(lab: Lab) -> Path:
    return lab.folder / "student_ed25519"


class Command:
    """The command `provision`, with its records beside the lab."""

    def __init__(self, engine: Engine, lab: Lab, program: Path = PROGRAM) -> None:
        self.program = program
        state = {name: str(lab.folder / name.lower()) for name in ("XDG_STATE_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME")}
        self.own_env = engine.client_env() | state
        self.env = {**os.environ, **self.own_env}

    def env_file(self, folder: Path) -> str:
        """Return POSIX shell lines that set up the same environment; `$LAB` is the lab directory."""
        values = self.own_env | {"LAB": str(folder)}
        path = f"export PATH={shlex.quote(str(self.program.parent))}:$PATH\n"
        return path + "".join(f"export {name}={shlex.quote(value)}\n" for name, value in values.items())

    def run(self, *words: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.program, *words],
            env=self.env | dict(env or {}),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            cwd="/",
        )

    def start(self, *words: str) -> "subprocess.Popen[str]":
        """Start the command, whose output is discarded, without waiting for its end."""
        return subprocess.Popen(
            [self.program, *words],
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd="/",
        )

    def show(self, *words: str) -> None:
        """Run the command with its output on the terminal; exit with its code if it fails."""
        print(f"\n$ provision {' '.join(words)}", flush=True)
        code = subprocess.run([self.program, *words], env=self.env, check=False).returncode
        if code:
            sys.exit(code)


def report(command: Command, lab: Lab, folder: Path) -> int:
    """Check every seat as a student would, and print its access."""
    found = json.loads(command.run("status", str(folder), "--urls", "--json").stdout)
    print("\nEvery seat, as a student finds it:")
    good = [show_seat(seat, found["urls"][seat["node"]], lab) for seat in found["seats"]]
    ENV_FILE.write_text(command.env_file(folder))
    print(f"\nThe lab directory, for your own commands: {folder}\n\n  . ./{ENV_FILE}")
    for text, line in TO_TRY:
        print(f"  {line:<45}  # {text}")
    print("\nRemove the demo with `make demo-down`.")
    return 0 if all(good) else 1


def show_seat(seat: dict[str, dict[str, str]], url: str, lab: Lab) -> bool:
    ssh = ssh_command(seat["access"]["ssh"], seat["access"]["host_key"], student_key(lab), lab.folder)
    login = subprocess.run([*ssh, "id -un; nvidia-smi -L"], capture_output=True, text=True, check=False)
    with_token, without = http_status(url), http_status(url.partition("?")[0].replace("/lab", "/api/contents"))
    print(f"\n{seat['node']}\n  {url}\n    HTTP {with_token} with the token, {without} without")
    print(f"  {' '.join(ssh)}\n    {' · '.join(login.stdout.splitlines()) or login.stderr.strip()}")
    return (with_token, without, login.returncode) == (200, 403, 0)


def ssh_command(way: str, host_key: str, key: Path, folder: Path) -> list[str]:
    """Return the SSH command of a seat with the student's key; only the seat's host key is accepted."""
    _, _, port, target = way.split()
    known = folder / f"known_hosts_{port}_{target}"
    known.write_text(f"[{target.partition('@')[2]}]:{port} {host_key}\n")
    options = ("-o", f"UserKnownHostsFile={known}", "-o", "StrictHostKeyChecking=yes", "-o", "BatchMode=yes")
    return ["ssh", "-F", "none", *options, "-i", str(key), "-p", port, target]


def http_status(url: str, token: str = "") -> int:
    """Return the status of a GET; `token` is sent in a header, as programs do that use Jupyter."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    request = urllib.request.Request(url, headers={"Authorization": f"token {token}"} if token else {})
    try:
        with opener.open(request, timeout=10) as response:
            return int(response.status)
    except urllib.error.HTTPError as refused:
        refused.close()
        return refused.code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
