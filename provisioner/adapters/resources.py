"""Find playbooks and templates: inside an installed package, or beside the package in a checkout."""

from pathlib import Path

_PACKAGE = Path(__file__).parent.parent


def playbooks() -> Path:
    """Return the directory of the playbooks."""
    return _find("playbooks")


def templates() -> Path:
    """Return the directory of the templates."""
    return _find("templates")


def _find(name: str) -> Path:
    installed = _PACKAGE / "resources" / name
    return installed if installed.is_dir() else _PACKAGE.parent / name
