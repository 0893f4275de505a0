"""The index that pip would ask on this machine, by pip's own word."""

import ast
import subprocess
import sys
from contextlib import suppress

_SECONDS = 60
# As pip's own configuration gives way: the environment, then what is set for `install`, then for all.
_KEYS = (":env:.index-url", "install.index-url", "global.index-url")


def pip_index() -> str | None:
    """None where it is pip's default, or a folder. The address may hold a password."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pip", "config", "list"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    given = dict(line.partition("=")[::2] for line in done.stdout.splitlines())
    named = next((url for key in _KEYS if (url := _unquoted(given.get(key, "")))), "")
    return named if named.startswith(("http://", "https://")) else None


def _unquoted(text: str) -> str:
    with suppress(ValueError, SyntaxError):
        return str(ast.literal_eval(text))
    return ""
