"""What a killed controller leaves is ended and removed. Ansible is stood for by other programs."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest

CONTROLLER = """
import os, subprocess, sys, time
from provisioner.adapters.ansible.play import play_folder

with play_folder({"n1": "{}"}) as folder:
    env = os.environ | {"ANSIBLE_SSH_CONTROL_PATH_DIR": f"{folder}/cp"}
    for argv in ([*sys.argv[1:], f"{folder}/limit"], ["sleep", "600"]):
        print(subprocess.Popen(argv, env=env, stdout=subprocess.DEVNULL, start_new_session=True).pid)
    print(folder, flush=True)
    time.sleep(600)
"""
STUBBORN = "trap '' TERM; while :; do sleep 600; done"


def is_alive(process: int) -> bool:
    with suppress(OSError):  # there is no such process
        return ") Z" not in Path(f"/proc/{process}/stat").read_text()
    return False


@pytest.mark.parametrize("ansible", [("tail", "-f"), ("sh", "-c", STUBBORN)], ids=["ends at SIGTERM", "ignores it"])
def test_a_killed_controller_takes_its_play_along_but_not_a_job(ansible: Sequence[str]) -> None:
    argv = [sys.executable, "-c", CONTROLLER, *ansible]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as controller:
        assert controller.stdout is not None
        play, job = int(controller.stdout.readline()), int(controller.stdout.readline())
        folder = Path(controller.stdout.readline().strip())
        assert (is_alive(play), is_alive(job), folder.exists()) == (True, True, True)
        controller.kill()
    try:
        deadline = time.monotonic() + 20
        while is_alive(play) or folder.exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert is_alive(job)
    finally:
        for process in (play, job):
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
