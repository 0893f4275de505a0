"""Random faults on real nodes. CHAOS_SECONDS is the length, an hour by default, and CHAOS_SEED the seed."""

import os

import pytest

from tests.journeys.chaos import run_chaos
from tests.lab.engine import Engine

pytestmark = [pytest.mark.lab, pytest.mark.long("chaos")]


def test_after_an_hour_of_random_faults_every_seat_is_old_or_new_and_whole(testbed: Engine) -> None:
    seed = os.environ.get("CHAOS_SEED")
    chaos = run_chaos(testbed, float(os.environ.get("CHAOS_SECONDS") or 3600), int(seed) if seed else None)
    print(chaos.summary())
    assert chaos.runs
    assert not chaos.violations
