"""The GPUs of this machine as containers on the outer engine see them. Tests that change them share a bed."""

from collections.abc import Iterator

import pytest

from tests.lab.engine import Engine
from tests.lab.gpus import HostGpu, profile_text
from tests.lab.host import run
from tests.lab.tags import DemoTag
from tests.lab_selftest.test_gpus_in_containers import COMPOSE, RUN, UUID

pytestmark = pytest.mark.lab


@pytest.fixture
def host_gpu(testbed: Engine) -> Iterator[HostGpu]:
    gpu = HostGpu(testbed.root)
    gpu.set_profile(profile_text("h100x2-570"))
    yield gpu
    gpu.set_profile(profile_text("cpu"))


def test_reservation_by_uuid_on_the_outer_engine(testbed: Engine, host_gpu: HostGpu) -> None:
    _, second = UUID.findall(host_gpu.places.conf.read_text())
    compose = COMPOSE.format(image=DemoTag("2.8.0", "12.8.1", "").image, uuid=second)
    assert UUID.findall(run(*RUN, env=testbed.env(), stdin=compose).stdout) == [second]
