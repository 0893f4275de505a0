from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# How fast a busy machine is says nothing of the code: no law is held against a clock. Each commit tries a few
# examples of every law; `make test-long PART=fuzz` tries many (--hypothesis-profile=long).
for name, examples in (("commit", 25), ("long", 1000)):
    settings.register_profile(name, max_examples=examples, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("commit")

pytest_plugins = ["tests.lab.fixtures", "tests.beds", "tests.long_parts", "tests.timing"]


@pytest.fixture(autouse=True)
def _no_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test writes into a person's folders by accident: every place that we keep things in is a fresh one."""
    for name in ("XDG_STATE_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    monkeypatch.delenv("COLUMNS", raising=False)  # of whoever runs the tests; theirs is said where it matters
