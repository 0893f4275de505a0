"""A lock has the same bytes in every locale and time zone, with any hash seed, and for any order of nodes and tags."""

import json
import os
import subprocess
import sys

ENVIRONMENTS = (
    {"LANG": "C", "LC_ALL": "C", "TZ": "UTC", "PYTHONHASHSEED": "0"},
    {"LANG": "tr_TR.UTF-8", "LC_ALL": "tr_TR.UTF-8", "TZ": "Asia/Shanghai", "PYTHONHASHSEED": "1"},
    {"LANG": "zh_CN.GB18030", "LC_ALL": "zh_CN.GB18030", "TZ": "America/St_Johns", "PYTHONHASHSEED": "4711"},
)


def lock_in(environment: dict[str, str], seed: int) -> bytes:
    words = [sys.executable, "-m", "tests.workflow.lock.lock_once", str(seed)]
    return subprocess.run(words, env=os.environ | environment, stdout=subprocess.PIPE, check=True).stdout


def test_locks_have_the_same_bytes_in_every_environment() -> None:
    locks = [lock_in(environment, seed) for seed, environment in enumerate(ENVIRONMENTS)]
    assert locks[0] == locks[1] == locks[2]
    selection, lock = map(json.loads, locks[0].split(b"\n", 1))
    assert len(selection[1]) == 12
    assert lock["schema"] == "provisioner/lock/1"
    assert len(lock["images"]) == 2
    assert len(lock["nodes"]) == 10
    assert lock["unserved"] == ["n4", "n9"]
