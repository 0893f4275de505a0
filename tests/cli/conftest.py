from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.controlled_lab import ControlledLab, Controllers, running_controllers


@pytest.fixture(scope="session")
def controllers() -> Iterator[Controllers]:
    with running_controllers() as running:
        yield running


@pytest.fixture
def lab(controllers: Controllers, tmp_path: Path) -> ControlledLab:
    return ControlledLab(controllers, tmp_path)
