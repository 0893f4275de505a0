"""Standard streams that are closed, or that cannot be written."""

import io
import os
import sys
from typing import Any


class OutputError(OSError):
    """Stdout cannot be written, for example because its disk is full."""


class _Stdout(io.FileIO):
    def write(self, data: Any, /) -> int:
        try:
            return super().write(data) or 0
        except BrokenPipeError:
            raise
        except OSError as error:
            _discard(self.fileno())
            raise OutputError(error.errno, error.strerror) from None


class _Stderr(io.FileIO):
    """Messages that cannot be written are lost: they do not end a run that is changing nodes."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data) or 0
        except OSError:
            _discard(self.fileno())
            return len(data)


def _discard(descriptor: int) -> None:
    """Discard what is written from now on. Python writes what is left once more when it exits."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)


def prepare_streams() -> None:
    """Open /dev/null in the place of each standard stream that is closed, and handle errors of stdout and stderr.

    Without the first, as after `provision … >&-`, the next file that is opened would get the descriptor of the stream,
    and programs that are started would print into that file.
    """
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            if (opened := os.open(os.devnull, os.O_RDWR)) != descriptor:
                os.dup2(opened, descriptor)
                os.close(opened)
            os.set_inheritable(descriptor, True)
            setattr(sys, name, os.fdopen(descriptor, "w" if descriptor else "r", encoding="utf-8", closefd=False))
    sys.stdout, sys.stderr = _text(sys.stdout, _Stdout), _text(sys.stderr, _Stderr)


def _text(stream: Any, kind: type[io.FileIO]) -> io.TextIOWrapper:
    raw = kind(stream.fileno(), "w", closefd=False)
    return io.TextIOWrapper(
        io.BufferedWriter(raw), stream.encoding, stream.errors, line_buffering=stream.line_buffering
    )
