"""PATH of a login shell, which Debian's /etc/profile sets anew."""

import subprocess
from pathlib import Path

import pytest

from provisioner.adapters.resources import templates

ENV, COURSE = "/opt/provisioner/env/bin", "/opt/provisioner/course/bin"


@pytest.mark.parametrize(
    ("made", "before", "after"),
    [
        ((ENV,), "/bin", "{env}:/bin"),
        ((ENV, COURSE), "/bin", "{env}:{course}:/bin"),
        ((COURSE,), "/bin", "{course}:/bin"),
        ((), "/bin", "/bin"),
        # A shell in a shell, and one of JupyterLab with the image's own PATH.
        ((ENV, COURSE), "{env}:{course}:/bin", "{env}:{course}:/bin"),
        ((ENV, COURSE), "/own:{env}:{course}:/bin", "/own:{env}:{course}:/bin"),
    ],
)
def test_the_labs_programs_come_first_and_once(tmp_path: Path, made: tuple[str, ...], before: str, after: str) -> None:
    for folder in made:
        (tmp_path / folder.lstrip("/")).mkdir(parents=True)
    places = {"env": f"{tmp_path}{ENV}", "course": f"{tmp_path}{COURSE}"}
    text = (templates() / "provisioner.sh").read_text().replace("/opt/provisioner", f"{tmp_path}/opt/provisioner")
    script = f"set -eu; PATH={before.format(**places)}; {text} echo $PATH"
    done = subprocess.run(["/bin/sh", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == after.format(**places)
