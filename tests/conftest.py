import gc
import os
import shutil
from itertools import count
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# No deadlines: they would depend on the load of the machine. Every run tries a few examples of each property;
# `make test-long PART=fuzz` tries many (--hypothesis-profile=long).
for name, examples in (("commit", 25), ("long", 1000)):
    settings.register_profile(name, max_examples=examples, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("commit")

# Modules and tests are never garbage: without this the collector goes through all of them, again and again.
gc.set_threshold(100_000)

# Tests write many small files. In memory that takes an eighth less processor time, and no wait. A whole run needs some
# 200 MB; a container often has 64 MB there, and then they stay on the disk.
MEMORY = Path("/dev/shm")
if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > 2**30:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))

pytest_plugins = ["tests.lab.fixtures", "tests.beds", "tests.long_parts", "tests.timing"]


_NUMBERS = count()


def pytest_collection_finish() -> None:
    gc.freeze()


@pytest.fixture(autouse=True)
def _no_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set every XDG folder to a fresh one, so that no test writes into the user's folders.

    They do not exist yet: to make a folder for each test takes longer than most tests.
    """
    home = tmp_path_factory.getbasetemp() / "homes" / str(next(_NUMBERS))
    for name in ("XDG_STATE_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, str(home / name.lower()))
    monkeypatch.delenv("COLUMNS", raising=False)  # tests that depend on the width set it themselves


@pytest.fixture(autouse=True)
def _no_waiting_for_disks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace fsync: it is slow on a shared disk, and no test needs it."""
    monkeypatch.setattr(os, "fsync", lambda _: None)
