"""The folder of letters. They hold personal data, so only the account that wrote them can read them."""

from collections.abc import Collection, Mapping
from pathlib import Path

from provisioner.adapters.state.files import make_private_folder, write_text
from provisioner.domain.values.problem import Problem, ProblemError

ENDINGS = (".txt", ".html")


def write_letters(folder: Path, files: Mapping[str, str]) -> None:
    """Write each file (name: text) with mode 0600, and the folder with mode 0700 where it is new.

    Raises ProblemError where they cannot be written.
    """
    try:
        make_private_folder(folder)
    except OSError as error:
        raise ProblemError(_unwritable(folder, error), "usage") from None
    for name, text in files.items():
        write_text(folder / name, text, mode=0o600)


def old_letters(folder: Path, names: Collection[str]) -> tuple[str, ...]:
    """Return the files in the folder that are letters of none of `names`: file names without their ending."""
    found = (path for path in folder.iterdir() if path.suffix in ENDINGS)
    return tuple(sorted(path.name for path in found if path.stem not in names))


def _unwritable(folder: Path, error: OSError) -> Problem:
    return Problem(
        "unwritable",
        f"{folder}: {error.strerror or error}",
        "letters are written into a folder of their own",
        "give a folder that you can write to: --to DIR",
    )
