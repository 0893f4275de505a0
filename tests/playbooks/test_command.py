import contextlib
import fcntl
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from tests.playbooks.node_code import ProblemError, module_util

command, files = module_util("base.command"), module_util("base.files")


def test_run_passes_input_and_returns_both_outputs() -> None:
    ran = command.run(["sh", "-c", "cat; echo bad >&2; exit 3"], 10, text="in")
    assert (ran.code, ran.out, ran.err) == (3, "in", "bad\n")


def test_a_command_without_input_reads_an_empty_stdin() -> None:
    assert command.run(["cat"], 10).out == ""


def test_a_command_without_input_needs_no_disk_space(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command.tempfile, "TemporaryFile", lambda: 1 / 0)
    assert command.run(["true"], 10).code == 0


def test_output_beyond_the_limit_is_read_and_dropped() -> None:
    ran = command.run([sys.executable, "-c", "print('x' * 10_000_000)"], 20)
    assert (ran.code, len(ran.out)) == (0, command.OUTPUT_LIMIT)


def has_ended(process: Path, seconds: float = 10) -> bool:
    """Wait until a killed process is gone or a zombie."""
    deadline = time.monotonic() + seconds
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        while process.read_text().split()[2] != "Z":
            if time.monotonic() > deadline:
                return False
            time.sleep(0.01)
    return True


def test_a_timeout_kills_the_children_of_the_command_too(tmp_path: Path) -> None:
    child = tmp_path / "child"
    ran = command.run(["sh", "-c", f"sleep 60 & echo $! > {child}; echo begun; wait"], 0.5)
    assert (ran.code, ran.out) == (None, "begun\n")
    assert ran.message.startswith("timed out")
    assert has_ended(Path(f"/proc/{child.read_text().strip()}/stat"))


def test_a_missing_program_is_reported_by_name() -> None:
    with pytest.raises(ProblemError, match="no-such-program"):
        command.run(["no-such-program"], 1)


def test_a_command_inherits_kept_descriptors() -> None:
    reader, writer = os.pipe()
    command.run([sys.executable, "-c", f"import os; os.write({writer}, b'hello')"], 10, keep=(writer,))
    os.close(writer)
    assert os.read(reader, 10) == b"hello"
    os.close(reader)


def test_run_in_child_returns_the_value_of_the_function() -> None:
    assert command.run_in_child(lambda: {"a": ["x" * 100_000]}, 10) == {"a": ["x" * 100_000]}


def test_run_in_child_times_out_if_the_function_hangs() -> None:
    with pytest.raises(TimeoutError):
        command.run_in_child(lambda: time.sleep(60), 2)


@pytest.mark.parametrize(
    ("work", "reason"),
    [(lambda: 1 / 0, "division by zero"), (lambda: os.kill(os.getpid(), signal.SIGKILL), "the child process crashed")],
)
def test_run_in_child_raises_with_the_reason_of_the_failure(work: object, reason: str) -> None:
    with pytest.raises(ChildProcessError, match=reason):
        command.run_in_child(work, 10)


def test_collect_in_child_returns_what_was_yielded_and_that_it_ended() -> None:
    assert command.collect_in_child(lambda: iter([["a", 1], {"b": "\n²"}]), 10, 1 << 20) == (
        [["a", 1], {"b": "\n²"}],
        True,
    )


def yield_and_hang() -> Iterator[int]:
    yield from (1, 2)
    signal.pause()


def yield_and_fail() -> Iterator[int]:
    yield from (1, 2)
    raise ValueError


@pytest.mark.parametrize(
    ("work", "limit", "ended"),
    [
        (yield_and_hang, 100, False),
        (yield_and_fail, 100, True),
        (lambda: range(1, 1000), 5, True),  # of the third value, a part is within the limit
    ],
)
def test_collect_in_child_keeps_what_was_yielded_before_a_hang_an_error_or_its_limit(
    work: Callable[[], Iterable[int]], limit: int, ended: bool
) -> None:
    assert command.collect_in_child(work, 0.5 if not ended else 10, limit) == ([1, 2], ended)


def descriptors() -> dict[str, str]:
    """Return the open descriptors of this process by number."""
    return {path.name: str(path.readlink()) for path in Path("/proc/self/fd").iterdir() if path.is_symlink()}


def test_the_child_of_run_in_child_holds_nothing_but_its_pipe(tmp_path: Path) -> None:
    """A child that hangs in the kernel outlives its job: it must hold neither the seat's lock nor the connection."""
    lock = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)
    try:
        found = command.run_in_child(descriptors, 10)
    finally:
        os.close(lock)
    pipes = [name for name, target in found.items() if target.startswith("pipe:")]
    assert {found.pop(name) for name in ("0", "1", "2")} == {os.devnull}
    assert (list(found), len(pipes)) == (pipes, 1)


def test_a_lock_is_free_while_a_child_of_its_holder_still_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)
    left: list[int] = []
    monkeypatch.setattr(command.os, "kill", lambda child, _: left.append(child))  # as when blocked in the kernel
    with pytest.raises(TimeoutError):
        command.run_in_child(lambda: time.sleep(60), 2)
    monkeypatch.undo()
    os.close(lock)
    try:
        with (tmp_path / "lock").open() as again:
            fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.kill(left[0], signal.SIGKILL)
        os.waitpid(left[0], 0)


def test_a_child_that_leaves_by_systemexit_does_not_run_on_as_the_caller() -> None:
    with pytest.raises(ChildProcessError, match="crashed"):
        command.run_in_child(sys.exit, 10)


@pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")
def test_a_command_that_survives_its_kill_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "KILL_SECONDS", 0.1)
    left: list[int] = []
    monkeypatch.setattr(command.os, "killpg", lambda group, _: left.append(group))
    begun = time.monotonic()
    try:
        assert command.run(["sleep", "10"], 0.2).code is None
        assert time.monotonic() - begun < 5
    finally:
        monkeypatch.undo()
        os.killpg(left[0], signal.SIGKILL)
        os.waitpid(left[0], 0)


def test_write_atomic_replaces_the_file_and_sets_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old and longer")
    before = path.stat().st_ino
    files.write_atomic(path, "new", 0o644)
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("new", 0o644)
    assert path.stat().st_ino != before
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_control_characters_in_a_problem_are_replaced() -> None:
    fault = ProblemError("c", "\x1b[2Jwhat\x07\r", "why\nmore", "fix")
    assert vars(fault)["problem"] == {"code": "c", "what": "?[2Jwhat??", "why": "why\nmore", "fix": "fix"}
