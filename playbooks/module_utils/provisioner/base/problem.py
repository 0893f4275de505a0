"""The exception of node code: it carries one problem in the form that the control machine shows."""

from __future__ import annotations


class ProblemError(Exception):
    """One problem with its stable code. `state` is the state of a job that ends with this error."""

    state = "failed"

    def __init__(self, code: str, what: str, why: str, fix: str) -> None:
        """Build the problem; control characters in its text are replaced."""
        super().__init__(what)
        self.problem = {"code": code, "what": printable(what), "why": printable(why), "fix": printable(fix)}


def printable(text: str) -> str:
    """Replace control characters by "?": output of a node or a container must not control a terminal."""
    return "".join(c if c in "\n\t" or c.isprintable() else "?" for c in text)


def as_fault(error: ProblemError | OSError) -> ProblemError:
    """Return the error itself, or the problem `io_error` for an error of the operating system."""
    return error if isinstance(error, ProblemError) else io_problem(error)


def io_problem(error: OSError) -> ProblemError:
    """Return the problem `io_error` for an error of the operating system."""
    return ProblemError(
        "io_error",
        f"the operating system of the node reports: {error}",
        "a seat is changed only after the step is recorded on disk",
        "check the node for a full or read-only file system: df -h, df -i, mount",
    )
