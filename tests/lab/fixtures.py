"""The test bed as pytest fixtures; tests/conftest.py imports them. Tests that use them are marked `lab`."""

import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.lab import bare, packages
from tests.lab.bed import Lab
from tests.lab.engine import Engine
from tests.lab.host import BedError
from tests.lab.registry import Auth
from tests.lab.steps import setup
from tests.lab.tags import push_demo_tags

LAB3 = ("rtx5090x2-580", "rtx4090-570", "v100-535")

MakeLab = Callable[..., Lab]


@pytest.fixture(scope="session")
def testbed() -> Engine:
    """The outer engine, with every image built. Fails, and says why, where the machine can't have a test bed."""
    if os.environ.get("LAB") == "0":
        pytest.fail("LAB=0 leaves the test bed out: deselect these tests with -m 'not lab'", pytrace=False)
    try:
        return setup()
    except BedError as problem:
        pytest.fail(f"no test bed on this machine: {problem}", pytrace=False)


@pytest.fixture(scope="session")
def lab3(testbed: Engine) -> Iterator[Lab]:
    """Three nodes of three generations, and a mirror with the demo tags. Tests leave it as they found it."""
    with_tags = _a_lab(testbed)
    try:
        with_tags.up(LAB3)
        push_demo_tags(with_tags.mirror)
        yield with_tags
    finally:
        with_tags.down()


@pytest.fixture
def make_lab(testbed: Engine) -> Iterator[MakeLab]:
    """Starts labs for one test: make_lab(profiles, trust_registry=..., auth=..., engines=...)."""
    made: list[Lab] = []

    def make(
        profiles: Sequence[str], *, trust_registry: bool = True, auth: Auth | None = None, engines: bool = True
    ) -> Lab:
        lab = _a_lab(testbed, trust_registry=trust_registry, auth=auth)
        made.append(lab)
        return lab.up(profiles, engines=engines)

    yield make
    for lab in made:
        lab.down()


@pytest.fixture(scope="session")
def bare_bed(testbed: Engine) -> Path:
    """The image of bare nodes of Debian 13, and the folder of packages that they install from."""
    return _bare(testbed, bare.TRIXIE)


@pytest.fixture(scope="session")
def older_bare_bed(testbed: Engine) -> Path:
    """The same of Debian 12, whose own archive has no compose v2."""
    return _bare(testbed, bare.BOOKWORM)


def _bare(engine: Engine, release: bare.Release) -> Path:
    bare.build_image(engine, release)
    return packages.publish(engine, release)


def _a_lab(engine: Engine, *, trust_registry: bool = True, auth: Auth | None = None) -> Lab:
    # A name of its own for each: several test runs may share the machine.
    return Lab(f"t{secrets.token_hex(3)}", trust_registry=trust_registry, auth=auth, engine=engine)
