import os
import subprocess
import sys
from pathlib import Path

import pytest

from provisioner.cli.app import VERBS
from tests.cli.running import run

HEAVY = ("ansible", "ansible_runner", "docker", "jinja2", "pydantic", "pynvml", "requests", "rich", "urllib3", "yaml")
IN_TIME = f"""
import sys
from provisioner.cli import main
sys.argv = ["provision", *{{words}}]
try:
    main()
finally:
    print(sorted(set({HEAVY}) & set(sys.modules)), file=sys.stderr)
"""


@pytest.mark.parametrize("words", [["--help"], ["--version"]])
def test_help_comes_at_once(words: list[str]) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", IN_TIME.format(words=words)], capture_output=True, text=True, check=True
    )
    assert ran.stdout
    assert ran.stderr == "[]\n", "help must not wait for what it does not need"


def test_completion_of_verbs_comes_at_once_too() -> None:
    asked = {"_PROVISION_COMPLETE": "bash_complete", "COMP_WORDS": "provision rollo", "COMP_CWORD": "1"}
    ran = subprocess.run(
        [sys.executable, "-c", IN_TIME.format(words=[])],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | asked,
    )
    assert (ran.stdout, ran.stderr) == ("plain,rollout\n", "[]\n")


def test_completion_of_labs(tmp_path: Path) -> None:
    (tmp_path / "inventories" / "physics").mkdir(parents=True)
    (tmp_path / "inventories" / "physics" / "lab.yml").touch()
    asked = {"_PROVISION_COMPLETE": "bash_complete", "COMP_WORDS": "provision plan ph", "COMP_CWORD": "2"}
    argv = [sys.executable, "-c", IN_TIME.format(words=[])]
    ran = subprocess.run(argv, capture_output=True, text=True, check=True, env=os.environ | asked, cwd=tmp_path)
    assert ran.stdout == "plain,physics\n"


@pytest.mark.parametrize(
    "verb",
    [[verb] for verb in VERBS] + [["mirror", verb] for verb in ("tags", "check", "status", "wait", "wheel")],
    ids=" ".join,
)
def test_every_verb_shows_an_example_of_itself(verb: list[str]) -> None:
    ran = run(*verb, "--help")
    assert ran.exit_code == 0
    assert f"Example:\n    provision {' '.join(verb)}" in ran.stdout
    assert "\x1b" not in ran.stdout


def test_help_names_every_verb_and_every_exit_code() -> None:
    text = run("--help").stdout
    for verb in VERBS:
        assert f"\n  {verb} " in text
    for code in (0, 1, 2, 3, 4, 5, 6, 70, 130):
        assert f" {code} " in text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["rolout", "ai-lab"], "there is no verb rolout; did you mean rollout?"),
        (["frobnicate"], "there is no verb frobnicate\n"),
        (["plan"], "Missing argument 'LAB'"),
        (["plan", "ai-lab", "--limt", "n1"], "No such option"),
        (["plan", "ai-lab", "--limit", ""], "is empty, and would mean every node"),
        (["lock", "ai-lab", "--torch", "newest"], "not a version or a range"),
        (["upgrade", "ai-lab", "--notice", "\x1b[2J"], "holds U+001B, which is not for showing"),
        (["notify", "ai-lab"], "give a TEXT to tell, or --clear to take it back"),
        (["notify", "ai-lab", "exam", "--clear"], "give a TEXT to tell, or --clear to take it back"),
        (["notify", "ai-lab", "x" * 301], "has 301 characters, and at most 300 are shown"),
        (["select", "--nodes", "-", "--tags", "-"], "cannot both be stdin"),
        (["mirror", "check", "pytorch/pytorch:2.8.0"], "names no registry: write HOST/pytorch/pytorch:2.8.0"),
        (["mirror", "check", "Not A Reference"], "not an image reference"),
        (["completion", "tcsh"], "'tcsh' is not one of"),
    ],
)
def test_what_is_typed_wrong_is_exit_2_and_says_what(words: list[str], said: str) -> None:
    ran = run(*words)
    assert ran.exit_code == 2
    assert ran.stdout == ""
    assert said in ran.stderr


def test_the_module_is_the_command_too() -> None:
    ran = subprocess.run([sys.executable, "-m", "provisioner", "--version"], capture_output=True, text=True, check=True)
    assert ran.stdout.startswith("provision, version ")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: str) -> None:
    ran = run("completion", shell)
    assert ran.exit_code == 0
    assert "_PROVISION_COMPLETE" in ran.stdout
