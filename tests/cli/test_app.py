"""The command line: help, version, completion and mistakes in what was typed."""

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete

from provisioner.adapters.lab.compatibility_data import load
from provisioner.cli.app import VERBS, provision
from tests.cli.running import run

HEAVY = ("ansible", "ansible_runner", "docker", "jinja2", "pydantic", "pynvml", "requests", "rich", "urllib3", "yaml")
LIST_HEAVY_MODULES = f"""
import sys
from provisioner.cli import main
sys.argv = ["provision", *{{words}}]
try:
    main()
finally:
    print(sorted(set({HEAVY}) & set(sys.modules)), file=sys.stderr)
"""


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["help"]])
def test_help_and_version_import_no_heavy_module(words: list[str]) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", LIST_HEAVY_MODULES.format(words=words)], capture_output=True, text=True, check=True
    )
    assert ran.stdout
    assert ran.stderr == "[]\n", "help must not import these"


def test_completion_of_verbs_imports_no_heavy_module() -> None:
    asked = {"_PROVISION_COMPLETE": "bash_complete", "COMP_WORDS": "provision rollo", "COMP_CWORD": "1"}
    ran = subprocess.run(
        [sys.executable, "-c", LIST_HEAVY_MODULES.format(words=[])],
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
    argv = [sys.executable, "-c", LIST_HEAVY_MODULES.format(words=[])]
    ran = subprocess.run(argv, capture_output=True, text=True, check=True, env=os.environ | asked, cwd=tmp_path)
    assert ran.stdout == "plain,physics\n"


@pytest.mark.parametrize(
    ("lab", "roster", "found"),
    [("physics", "id,uid\nanna,\nbob,\n", ["anna"]), ("physics", "uid\n", []), ("physic", "id\nanna\n", [])],
)
def test_completion_of_people_of_a_roster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lab: str, roster: str, found: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "inventories" / "physics"
    folder.mkdir(parents=True)
    registries = 'mirror: {address: "127.0.0.1:5999"}\nregistry: {address: "127.0.0.1:5998"}\n'
    (folder / "lab.yml").write_text(f"name: physics\n{registries}people: {{roster: roster.csv}}\n")
    (folder / "hosts.yml").write_text("all: {hosts: {gpu1: {}}}\n")
    (folder / "roster.csv").write_text(roster)
    completion = ShellComplete(provision, {}, "provision", "_PROVISION_COMPLETE")
    assert [item.value for item in completion.get_completions(["seats", "stop", lab], "a")] == found


@pytest.mark.parametrize(
    "verb",
    [[verb] for verb in VERBS]
    + [["mirror", verb] for verb in ("tags", "check", "status", "wait", "wheel")]
    + [["seats", verb] for verb in ("list", "move", "stop", "start")]
    + [["environments", verb] for verb in ("list", "remove")]
    + [["facts", verb] for verb in ("show", "measure")],
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
    ("words", "expected"),
    [
        (["rolout", "ai-lab"], "unknown verb rolout; did you mean rollout?"),
        (["frobnicate"], "unknown verb frobnicate\n"),
        (["help", "rolout"], "unknown verb rolout; did you mean rollout?"),
        (["help", "frobnicate"], "unknown verb frobnicate\n"),
        (["help", "mirror", "chek"], "unknown command of provision mirror: chek; did you mean check?"),
        (["help", "plan", "ai-lab"], "provision plan has no commands\n"),
        (["plan"], "Missing argument 'LAB'"),
        (["letters", "ai-lab", "--contact", "\x1b[2J"], "contains U+001B, which is not printable"),
        (["letters", "ai-lab", "--contact", "x" * 201], "has 201 characters; the maximum is 200"),
        (["plan", "ai-lab", "--limt", "n1"], "No such option"),
        (["plan", "ai-lab", "--limit", ""], "is empty, and would mean every node"),
        (["lock", "ai-lab", "--torch", "newest"], "not a version or a range"),
        (["upgrade", "ai-lab", "--notice", "\x1b[2J"], "contains U+001B, which is not printable"),
        (["notify", "ai-lab"], "give either a TEXT to show, or --clear to remove the notice"),
        (["notify", "ai-lab", "exam", "--clear"], "give either a TEXT to show, or --clear to remove the notice"),
        (["notify", "ai-lab", "x" * 301], "has 301 characters; the maximum is 300"),
        (["select", "--nodes", "-", "--tags", "-"], "cannot both be stdin"),
        (["mirror", "check", "pytorch/pytorch:2.8.0"], "names no registry: write HOST/pytorch/pytorch:2.8.0"),
        (["mirror", "check", "Not A Reference"], "not an image reference"),
        (["facts", "measure", "Not A Reference"], "not an image reference"),
        (["facts", "measure", "--lab", "ai-lab"], "Missing argument 'IMAGE...'"),
        (["mirror", "check", "m:99999/a:b"], "'m:99999' has no port from 1 to 65535"),
        (["mirror", "check", "m:0/a:b"], "'m:0' has no port from 1 to 65535"),
        (["mirror", "check", "m:0080/a:b"], "'m:0080' has no port from 1 to 65535"),
        (["mirror", "check", "999.1.1.1/a:b"], "'999.1.1.1' is not an IP address"),
        (["mirror", "check", "0.0.0.0:5000/a:b"], "'0.0.0.0' is not the address of one host"),
        (["mirror", "check", "m:5000/a:b", "--platform", "linux"], "'linux' is not linux/amd64 or linux/arm64"),
        (["mirror", "check", "m:5000/a:b", "--platform", "windows/amd64"], "'windows/amd64' is not linux/amd64 or "),
        (["completion", "tcsh"], "'tcsh' is not one of"),
        (["-v", "probe", "ai-lab"], "-v is an option of verbs: write it after the verb"),
        (["mirror", "check", "m:5000/a:1", "--platform", ""], "'' is not linux/amd64 or linux/arm64"),
        (["mirror", "tags", "ai-lab", "--platform", "amd64"], "'amd64' is not linux/amd64 or linux/arm64"),
        (["mirror", "wheel", "http://[", "--torch", "2.8", "--cuda", "cu128"], "http://[ is not an http(s) address"),
        (["mirror", "wheel", "http://m:99999/", "--torch", "2.8", "--cuda", "cu128"], "is not an http(s) address"),
        (
            ["mirror", "wheel", "http://m/", "--upstream", "http://a]b/", "--torch", "2.8", "--cuda", "cu128"],
            "http://a]b/ is not an http(s) address",
        ),
    ],
)
def test_a_mistake_on_the_command_line_is_exit_2_and_explained(words: list[str], expected: str) -> None:
    ran = run(*words)
    assert ran.exit_code == 2
    assert ran.stdout == ""
    assert expected in ran.stderr


def test_version_and_date_of_the_compatibility_data() -> None:
    ran = subprocess.run([sys.executable, "-m", "provisioner", "--version"], capture_output=True, text=True, check=True)
    assert ran.stdout == f"provision {version('lab-provisioner')} (compatibility data of {load().compiled})\n"


@pytest.mark.parametrize(
    "words", [[], ["rollout"], ["mirror"], ["mirror", "check"], ["registry", "gc"], ["help"]], ids=str
)
def test_help_of_a_verb_is_the_text_of_its_help_option(words: list[str]) -> None:
    shown, expected = run("help", *words), run(*words, "--help")
    assert (shown.exit_code, shown.stdout) == (0, expected.stdout)
    assert expected.stdout.startswith(f"Usage: {' '.join(['provision', *words])} ")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: str) -> None:
    ran = run("completion", shell)
    assert ran.exit_code == 0
    assert "_PROVISION_COMPLETE" in ran.stdout
