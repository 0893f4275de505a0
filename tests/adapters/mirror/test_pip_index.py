"""The index of pip, as the installed pip resolves it."""

import os
from pathlib import Path

import pytest

from provisioner.adapters.mirror.pip_index import pip_index

FILE = "[global]\nindex-url = https://files.campus/simple\n"
CASES = [
    ("", {}, None),
    (FILE, {}, "https://files.campus/simple"),
    (FILE + "[install]\nindex-url = https://install.campus/simple\n", {}, "https://install.campus/simple"),
    (FILE, {"PIP_INDEX_URL": "https://env.campus/it's"}, "https://env.campus/it's"),
    ("[global]\nindex-url = file:///srv/wheels\n", {}, None),
    ("not a configuration", {}, None),
]


@pytest.mark.parametrize(("text", "environment", "expected"), CASES)
def test_pip_index_follows_pips_precedence(
    text: str, environment: dict[str, str], expected: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only = tmp_path / "pip.conf"
    only.write_text(text)
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    # With PIP_CONFIG_FILE=/dev/null pip reads no file at all; a file there is read last, over all others.
    monkeypatch.setenv("PIP_CONFIG_FILE", str(only) if text else os.devnull)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert pip_index() == expected
