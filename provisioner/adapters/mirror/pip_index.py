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
    settings = pip_settings()
    index = next((url for key in _KEYS if (url := settings.get(key))), "")
    return index if index.startswith(("http://", "https://")) else None


def pip_settings() -> dict[str, str]:
    """Return all settings of pip by section and name, such as `global.index-url`; none of a pip that fails.

    Section `:env:` is that of environment variables. Values may hold passwords.
    """
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
        return {}
    return {key: _unquote(value) for key, _, value in (line.partition("=") for line in listing.stdout.splitlines())}


def _unquote(text: str) -> str:
    with suppress(ValueError, SyntaxError):
        return str(ast.literal_eval(text))
    return ""
