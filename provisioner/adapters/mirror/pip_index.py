"""The index that pip on this machine asks, as `pip config list` shows it."""

import ast
import subprocess
import sys
from contextlib import suppress

_TIMEOUT = 60
# In pip's order of precedence: the environment, then the settings of `install`, then the global ones.
_KEYS = (":env:.index-url", "install.index-url", "global.index-url")


def pip_index() -> str | None:
    """Return the URL, which may hold a password; None for pip's default, a folder, or a pip that fails."""
    try:
        listing = subprocess.run(
            [sys.executable, "-m", "pip", "config", "list"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    settings = dict(line.partition("=")[::2] for line in listing.stdout.splitlines())
    index = next((url for key in _KEYS if (url := _unquote(settings.get(key, "")))), "")
    return index if index.startswith(("http://", "https://")) else None


def _unquote(text: str) -> str:
    with suppress(ValueError, SyntaxError):
        return str(ast.literal_eval(text))
    return ""
