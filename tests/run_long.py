"""`make test-long`: lists the parts of the long tests, or runs one in the background."""

import fcntl
import subprocess
import sys

from tests.long_parts import PARTS, RECORDS, ROOT

WORKERS = 2


def main(words: list[str]) -> int:
    if not words:
        print("make test-long PART=NAME, where NAME is one of:")
        for part, what in PARTS.items():
            print(f"  {part:<8} {what}")
        return 0
    (part,) = words
    if part not in PARTS:
        print(f"unknown part {part}; known: {', '.join(PARTS)}", file=sys.stderr)
        return 2
    return start(part)


def start(part: str) -> int:
    """Start a part unless it is running; on the same tree it skips what has passed. Return the exit code."""
    RECORDS.mkdir(exist_ok=True)
    log = RECORDS / f"{part}.log"
    with log.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"already running: tail -f {log}", file=sys.stderr)
            return 1
        profile = ["--hypothesis-profile=long"] if part == "fuzz" else []
        # -rP shows what passed tests have printed, such as costs.
        command = [sys.executable, "-m", "pytest", "-v", "-rP", f"--long={part}", f"-n{WORKERS}", *profile]
        # The child inherits the locked log as its output, so the lock is held as long as the child runs.
        subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True)
    print(f"started; its log: tail -f {log}")
    print("the same command again runs what has not passed on this tree")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
