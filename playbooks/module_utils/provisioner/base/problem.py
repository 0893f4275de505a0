"""The error that every room raises: one problem with its code, in the form in which the control machine shows it."""

from __future__ import annotations


class ProblemError(Exception):
    """One thing that is wrong, in the shape in which the control machine tells it. `state` is how a job ends by it."""

    state = "failed"

    def __init__(self, code: str, what: str, why: str, fix: str) -> None:
        super().__init__(what)
        self.problem = {"code": code, "what": printable(what), "why": printable(why), "fix": printable(fix)}


def printable(text: str) -> str:
    """Without control characters: what a node or a container says must not move anybody's cursor."""
    return "".join(c if c in "\n\t" or c.isprintable() else "?" for c in text)


def io_problem(error: OSError) -> ProblemError:
    return ProblemError(
        "io_error",
        f"the node's system refused it: {error}",
        "a seat is not changed without a record on disk of what is done",
        "look for room and for a read-only file system on the node: df -h, df -i, mount",
    )
