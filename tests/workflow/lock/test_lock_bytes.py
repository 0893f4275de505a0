"""The lock is the same bytes anywhere: other locale, time zone and hash seed, nodes and tags in another order."""

import json
import os
import subprocess
import sys

WORLDS = (
    {"LANG": "C", "LC_ALL": "C", "TZ": "UTC", "PYTHONHASHSEED": "0"},
    {"LANG": "tr_TR.UTF-8", "LC_ALL": "tr_TR.UTF-8", "TZ": "Asia/Shanghai", "PYTHONHASHSEED": "1"},
    {"LANG": "zh_CN.GB18030", "LC_ALL": "zh_CN.GB18030", "TZ": "America/St_Johns", "PYTHONHASHSEED": "4711"},
)


def lock_in(world: dict[str, str], seed: int) -> bytes:
    words = [sys.executable, "-m", "tests.workflow.lock.lock_once", str(seed)]
    return subprocess.run(words, env=os.environ | world, stdout=subprocess.PIPE, check=True).stdout


def test_the_same_bytes_wherever_it_is_made() -> None:
    locks = [lock_in(world, seed) for seed, world in enumerate(WORLDS)]
    assert locks[0] == locks[1] == locks[2]
    selection, lock = map(json.loads, locks[0].split(b"\n", 1))
    assert len(selection[1]) == 12
    assert lock["schema"] == "provisioner/lock/1"
    assert len(lock["nodes"]) == 9
    assert lock["unserved"] == ["n11", "n3", "n7"]
