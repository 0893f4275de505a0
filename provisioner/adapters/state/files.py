"""Files of this machine: read whole, replaced atomically, and kept in the directories of the XDG specification."""

import os
import secrets
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from provisioner.domain.values.problem import Problem, ProblemError

MAX_BYTES = 8 << 20  # far more than any file that a user writes for us


def state_home() -> Path:
    """Return the directory of runs and traces: `$XDG_STATE_HOME/provisioner`. A relative path is ignored (XDG)."""
    return _xdg_home("XDG_STATE_HOME", ".local/state")


def cache_home() -> Path:
    """Return the directory of caches: `$XDG_CACHE_HOME/provisioner`. A relative path is ignored (XDG)."""
    return _xdg_home("XDG_CACHE_HOME", ".cache")


def _xdg_home(variable: str, default: str) -> Path:
    path = Path(os.environ.get(variable, ""))
    return (path if path.is_absolute() else home() / default) / "provisioner"


def home() -> Path:
    """Return the home directory of this account: `$HOME`, else that of the user database.

    Raises ProblemError (usage) where there is neither, as in a container that runs under a number alone.
    """
    try:
        return Path.home()
    except RuntimeError:
        raise ProblemError(_no_home(), "usage") from None


def _no_home() -> Problem:
    return Problem(
        "no_home",
        f"HOME is not set, and this machine has no account with the number {os.getuid()}",
        "records of runs, caches and Ansible's own files are kept in the home directory",
        "set HOME to a directory that you can write to",
    )


def read_text(path: Path, fix: str) -> str:
    """Return the text of a file that a user named.

    Raises ProblemError (usage) with `fix` where the file is missing, unreadable, larger than MAX_BYTES or not UTF-8.
    """
    return decode(read_bytes(path, fix), str(path))


def read_bytes(path: Path, fix: str) -> bytes:
    """Return the bytes of a file that a user named.

    Raises ProblemError (usage) with `fix` where the file is missing, unreadable or larger than MAX_BYTES.
    """
    try:
        with path.open("rb") as file:
            found = file.read(MAX_BYTES + 1)  # not its size: a device has none, and no end
    except FileNotFoundError:
        problem = Problem("no_such_file", f"{path}: there is no such file", "this file was asked for by name", fix)
        raise ProblemError(problem, "usage") from None
    except OSError as error:
        raise _unreadable(path, error.strerror or str(error), fix) from None
    except ValueError as error:  # a null byte in the path
        raise _unreadable(path, str(error), fix) from None
    if len(found) > MAX_BYTES:
        raise _unreadable(path, f"larger than {MAX_BYTES >> 20} MiB", fix)
    return found


def decode(raw: bytes, name: str) -> str:
    """Decode UTF-8, with or without a byte order mark.

    Raises ProblemError (usage) with line and column of the first byte that is not UTF-8.
    """
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = raw[: error.start]
        line, column = before.count(b"\n") + 1, error.start - before.rfind(b"\n")
        problem = Problem(
            "not_utf8",
            f"{name}:{line}:{column}: not UTF-8 text",
            "reading another encoding as UTF-8 would silently change names",
            "save the file as UTF-8",
        )
        raise ProblemError(problem, "usage") from None


def write_text(path: Path, text: str, mode: int = 0o644) -> None:
    """Replace the text of a file atomically: after a power cut it holds the old text or the new one.

    Raises ProblemError where it cannot be written; the old text is then kept.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        if {*_private_homes()} & {*path.parents}:
            make_private_folder(path.parent)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
        _write_synced(temporary, text, mode)
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise ProblemError(
            Problem(
                "unwritable",
                f"{path}: {error.strerror or error}",
                "no run continues without its files on disk",
                "free disk space or give yourself write permission there, then run the command again",
            )
        ) from error


def make_private_folder(path: Path) -> None:
    """Create a folder and its missing parents, each with mode 0700 whatever the umask (XDG base directories)."""
    for folder in reversed([path, *path.parents]):
        if not folder.exists():
            with suppress(FileExistsError):
                folder.mkdir(mode=0o700)


def _private_homes() -> Iterator[Path]:
    for place in (state_home, cache_home):
        with suppress(ProblemError):  # without a home directory, no path is below it
            yield place()


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


def _unreadable(path: Path, reason: str, fix: str) -> ProblemError:
    problem = Problem(
        "unreadable", f"{path}: {reason}", "the content of the file is needed, and it is not guessed", fix
    )
    return ProblemError(problem, "usage")
