"""The test bed as pytest fixtures; tests/conftest.py imports them. Tests that use them are marked `lab`."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Unpack

import pytest

from tests.lab import bare, packages
from tests.lab.bed import Lab, LabOptions, running_lab
from tests.lab.engine import Engine
from tests.lab.host import BedError
from tests.lab.steps import setup
from tests.lab.tags import push_demo_tags

LAB3 = ("rtx5090x2-580", "rtx4090-570", "v100-535")

MakeLab = Callable[..., Lab]


@pytest.fixture(scope="session")
def testbed() -> Engine:
    """The outer engine, with every image built. Fails with the reason if this machine cannot run the test bed."""
    if os.environ.get("LAB") == "0":
        pytest.fail("LAB=0 leaves the test bed out: deselect these tests with -m 'not lab'", pytrace=False)
    try:
        return setup()
    except BedError as problem:
        pytest.fail(f"no test bed on this machine: {problem}", pytrace=False)


@pytest.fixture(scope="session")
def lab3(testbed: Engine) -> Iterator[Lab]:
    """Three nodes with three generations of GPUs, and a mirror with the demo tags. Tests restore what they change."""
    with running_lab(testbed, LAB3) as lab:
        push_demo_tags(lab.mirror)
        yield lab


@pytest.fixture
def make_lab(testbed: Engine) -> Iterator[MakeLab]:
    """Function that starts labs for one test: make_lab(profiles, trust_registry=..., auth=..., engines=...)."""
    with ExitStack() as made:

        def make(profiles: Sequence[str], *, engines: bool = True, **options: Unpack[LabOptions]) -> Lab:
            return made.enter_context(running_lab(testbed, profiles, engines=engines, **options))

        yield make


@pytest.fixture(scope="session")
def debian13_packages(testbed: Engine) -> Path:
    """Folder of packages for bare nodes of Debian 13; their image is built."""
    return publish_packages(testbed, bare.TRIXIE)


@pytest.fixture(scope="session")
def debian12_packages(testbed: Engine) -> Path:
    """Folder of packages for bare nodes of Debian 12, whose archive has no compose v2; their image is built."""
    return publish_packages(testbed, bare.BOOKWORM)


def publish_packages(engine: Engine, release: bare.Release) -> Path:
    bare.build_image(engine, release)
    return packages.publish(engine, release)
