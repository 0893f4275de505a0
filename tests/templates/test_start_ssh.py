import runpy
import shlex
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from provisioner.adapters.resources import templates

START_SSH: dict[str, Any] = runpy.run_path(str(templates() / "start-ssh.py"))
STUDENT = {"PATH": "/opt/provisioner/env/bin:/usr/bin", "PYTHONUSERBASE": "/home/student/.provisioner/python/2.8.0-x"}


def session(environment: dict[str, str]) -> dict[str, str]:
    return dict(START_SSH["for_sessions"](environment))


def test_variables_of_the_image_reach_the_session() -> None:
    image = {
        "PATH": "/opt/conda/bin:/bin",
        "LD_LIBRARY_PATH": "/usr/local/nvidia/lib",
        "NVIDIA_VISIBLE_DEVICES": "GPU-1",
    }
    assert session(image) == image


def test_variables_of_the_container_and_secrets_do_not_reach_the_session() -> None:
    container = {"HOME": "/root", "HOSTNAME": "x", "USER": "root", "SHLVL": "0", "TERM": "dumb"}
    secret = {"JUPYTER_TOKEN_FILE": "/x", "WANDB_API_KEY": "x", "DB_PASSWORD": "x", "aws_secret": "x"}
    assert session({**container, **secret}) == {}


def test_variables_with_control_characters_do_not_reach_the_session() -> None:
    assert session({"BAD": "a\nPermitRootLogin yes", "BELL": "\a", "GOOD": "李雷 a"}) == {"GOOD": "李雷 a"}


def test_programs_of_a_student_come_last_on_path() -> None:
    found = START_SSH["with_own_programs"](STUDENT)["PATH"]
    assert found == f"{STUDENT['PATH']}:{STUDENT['PYTHONUSERBASE']}/bin"


@given(st.dictionaries(st.from_regex(r"[A-Z][A-Z_]{0,8}", fullmatch=True), st.text(max_size=30), max_size=4))
def test_every_variable_is_one_argument_of_one_line(environment: dict[str, str]) -> None:
    first, second = START_SSH["config_text"]({**environment, **STUDENT}).splitlines()
    assert second == "Include /etc/provisioner/sshd_config"
    # sshd splits arguments like a shell inside double quotes, except that `$` and backquotes have no meaning.
    words = shlex.split(first.replace("$", "S").replace("`", "b"))
    wanted = [f"{name}={value}" for name, value in sorted(session({**environment, **STUDENT}).items())]
    assert words == ["SetEnv", *(word.replace("$", "S").replace("`", "b") for word in wanted)]


def test_the_included_configuration_is_the_mounted_one() -> None:
    compose = (Path(__file__).parents[1] / "domain/golden/compose.yaml").read_text()
    assert f'target: "{START_SSH["CONFIG"]}"' in compose
