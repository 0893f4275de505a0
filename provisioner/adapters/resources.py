"""Where playbooks and templates lie: inside the package where it was installed, beside it in a checkout."""

from pathlib import Path

_PACKAGE = Path(__file__).parent.parent


def playbooks() -> Path:
    return _find("playbooks")


def templates() -> Path:
    return _find("templates")


def _find(name: str) -> Path:
    installed = _PACKAGE / "resources" / name
    return installed if installed.is_dir() else _PACKAGE.parent / name
