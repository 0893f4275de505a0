"""Files of this machine: read whole, written beside and then moved into place, kept where XDG says."""

import os
import secrets
from contextlib import suppress
from pathlib import Path

from provisioner.domain.values.problem import Problem, ProblemError

MAX_BYTES = 8 << 20  # no file that a person writes for us comes near it


def state_home() -> Path:
    """Where runs and traces are kept: `$XDG_STATE_HOME/provisioner`. A relative path there is ignored, as XDG says."""
    return _home("XDG_STATE_HOME", ".local/state")


def cache_home() -> Path:
    return _home("XDG_CACHE_HOME", ".cache")


def _home(variable: str, below: str) -> Path:
    named = Path(os.environ.get(variable, ""))
    return (named if named.is_absolute() else Path.home() / below) / "provisioner"


def read_text(path: Path, fix: str) -> str:
    """The text of a file that a person gave. Raises ProblemError, naming `fix`, where it is not there or is no text."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise _unreadable(path, f"larger than {MAX_BYTES >> 20} MiB", fix)
        return decode(path.read_bytes(), str(path))
    except FileNotFoundError:
        raise ProblemError(_missing(path, fix), "usage") from None
    except OSError as error:
        raise _unreadable(path, error.strerror or str(error), fix) from None


def decode(raw: bytes, name: str) -> str:
    """UTF-8, with or without a byte order mark. Raises ProblemError with the place of the first byte that is not."""
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = raw[: error.start]
        line, column = before.count(b"\n") + 1, error.start - before.rfind(b"\n")
        raise ProblemError(_not_utf8(f"{name}:{line}:{column}"), "usage") from None


def write_text(path: Path, text: str, mode: int = 0o644) -> None:
    """Either the old text or the new one is there at any moment, also after a power cut."""
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_synced(beside, text, mode)
        beside.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
        raise ProblemError(_unwritable(path, error.strerror or str(error))) from error


def _write_synced(path: Path, text: str, mode: int) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _missing(path: Path, fix: str) -> Problem:
    return Problem("no_such_file", f"{path}: there is no such file", "it was asked for by name", fix)


def _unreadable(path: Path, reason: str, fix: str) -> ProblemError:
    problem = Problem("unreadable", f"{path}: {reason}", "nothing is guessed in its place", fix)
    return ProblemError(problem, "usage")


def _unwritable(path: Path, reason: str) -> Problem:
    return Problem(
        "unwritable",
        f"{path}: {reason}",
        "nothing goes on that could not be written down",
        "make room or give yourself the right to write there, then run the command again",
    )


def _not_utf8(place: str) -> Problem:
    return Problem(
        "not_utf8",
        f"{place}: not UTF-8 text",
        "another encoding read as UTF-8 would change names without a word",
        "save the file as UTF-8",
    )
