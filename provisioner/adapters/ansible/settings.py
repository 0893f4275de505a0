"""Arguments and environment of Ansible commands: from options, from the user's own configuration, and our defaults."""

import configparser
import locale
import os
import re
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import distribution
from pathlib import Path
from typing import Literal

from provisioner.domain.values.problem import Problem, ProblemError

FORKS = 50
_PROGRAM = "ansible-playbook"
_MAX_SHOWN = 80  # characters of a line
PasswordKind = Literal["connection", "become", "vault"]

# Set where the user's own configuration does not: variable, option in ansible.cfg, value. ServerAliveInterval ends the
# connection to a frozen node; without it ssh would wait forever. Of two groups with the same name in a YAML inventory
# Ansible takes the last, with a warning that is not shown here: the nodes of the first would be left out.
_DEFAULTS = (
    ("ANSIBLE_PIPELINING", "pipelining", "True"),
    ("ANSIBLE_TIMEOUT", "timeout", "10"),
    (
        "ANSIBLE_SSH_ARGS",
        "ssh_args",
        "-C -o ControlMaster=auto -o ControlPersist=600s -o ServerAliveInterval=10 -o ServerAliveCountMax=3",
    ),
    ("ANSIBLE_DUPLICATE_YAML_DICT_KEY", "duplicate_dict_key", "error"),
)
# An unreadable inventory and a pattern without a match are errors; Ansible would go on with no hosts. Passwords are
# asked for by the command line, before Ansible starts: a question of Ansible is not shown, and it would wait for ever.
# Our plays are no plays of the user: tags would leave their tasks out, and without a log there would be no results.
_STRICT = {
    "ANSIBLE_INVENTORY_ANY_UNPARSED_IS_FAILED": "True",
    "ANSIBLE_HOST_PATTERN_MISMATCH": "error",
    "ANSIBLE_ASK_PASS": "False",
    "ANSIBLE_BECOME_ASK_PASS": "False",
    "ANSIBLE_ASK_VAULT_PASS": "False",
    "ANSIBLE_AGNOSTIC_BECOME_PROMPT": "True",
    "ANSIBLE_ENABLE_TASK_DEBUGGER": "False",
    "ANSIBLE_RUN_TAGS": "all",
    "ANSIBLE_SKIP_TAGS": "",
    "ANSIBLE_NO_LOG": "False",
}
# How Ansible is configured to ask for a password: variable, option in ansible.cfg.
_ASKING: dict[PasswordKind, tuple[str, str]] = {
    "connection": ("ANSIBLE_ASK_PASS", "ask_pass"),
    "become": ("ANSIBLE_BECOME_ASK_PASS", "become_ask_pass"),
    "vault": ("ANSIBLE_ASK_VAULT_PASS", "ask_vault_pass"),
}
_TRUE = {"y", "yes", "on", "1", "true", "t"}  # as Ansible reads a boolean
_VAULT_PROMPTS = {"prompt", "prompt_ask_vault_pass"}
_ASK_FLAGS: dict[PasswordKind, str] = {
    "connection": "--ask-pass",
    "become": "--ask-become-pass",
    "vault": "--ask-vault-pass",
}
# The questions of ansible-playbook, as patterns for ansible-runner. The environment above fixes their words.
_PROMPTS: dict[PasswordKind, str] = {
    "connection": r"^SSH password: $",
    "become": r"^BECOME password(?:\[defaults to SSH password\])?: $",
    "vault": r"^Vault password: $",
}
# paramiko asks about an unknown host key, which is not shown; ssh, which has no terminal here, refuses it by itself.
_REFUSED = {r"continue connecting \(yes/no\)\?\s*$": "no"}


@dataclass(frozen=True)
class Passwords:
    """Passwords that a person has typed; None was not asked for. They are in no repr, so in no trace and no log."""

    connection: str | None = field(default=None, repr=False)
    become: str | None = field(default=None, repr=False)
    vault: str | None = field(default=None, repr=False)

    def flags(self) -> list[str]:
        """Return the flags that make ansible-playbook ask for these passwords."""
        return [flag for kind, flag in _ASK_FLAGS.items() if getattr(self, kind) is not None]

    def answers(self) -> dict[str, str]:
        """Return the answer to each question of ansible-playbook (a regular expression)."""
        given = {pattern: getattr(self, kind) for kind, pattern in _PROMPTS.items()}
        return _REFUSED | {pattern: password for pattern, password in given.items() if password is not None}


@dataclass(frozen=True)
class Settings:
    """How Ansible is called. `inventory` None: on this machine alone. `extra_vars`: each as typed after -e.

    `on_output` gets what ansible-playbook prints, without colours; it may come from nodes. `on_warning` gets what
    Ansible says of an inventory that it has read.
    """

    inventory: Path | None
    forks: int | None = None
    vault_password_file: Path | None = None
    extra_vars: tuple[str, ...] = ()
    verbosity: int = 0
    passwords: Passwords = Passwords()
    on_output: Callable[[str], None] | None = None
    on_warning: Callable[[str], None] | None = None

    def arguments(self) -> list[str]:
        """Return the command line arguments for the vault password file and the extra variables."""
        vault = ["--vault-password-file", str(self.vault_password_file.absolute())] if self.vault_password_file else []
        return [*vault, *(word for text in self.extra_vars for word in ("-e", text))]


def environment(settings: Settings, count: int) -> dict[str, str]:
    """Return the environment of an Ansible command on `count` nodes. Our virtual environment is first on PATH.

    Raises ProblemError (usage) where ansible.cfg cannot be read.
    """
    config = _config_file(settings.inventory)
    known = _options(config)
    forks = settings.forks or min(max(count, 1), FORKS)
    wanted = (*_DEFAULTS, ("ANSIBLE_FORKS", "forks", str(forks)))
    ours = {name: value for name, option, value in wanted if name not in os.environ and option not in known}
    if settings.forks:
        ours["ANSIBLE_FORKS"] = str(forks)
    if config:
        ours["ANSIBLE_CONFIG"] = str(config)
    if os.environ.get("ANSIBLE_STRATEGY", known.get("strategy", "")).endswith("debug"):
        ours["ANSIBLE_STRATEGY"] = "linear"  # the debugger would wait for commands at the first failed task
    path = os.pathsep.join((str(_programs()), os.environ.get("PATH", os.defpath)))
    return {**ours, **_STRICT, **_utf8_locale(), "PATH": path}


@cache
def _programs() -> Path:
    """Return the folder of Ansible's programs: beside our Python, where pip put them for ansible-core, or on PATH.

    `pip install --user` puts them into ~/.local/bin, which is often not on PATH. Raises ProblemError (usage) where
    they are in none of these.
    """
    beside = Path(sys.executable).parent
    if (beside / _PROGRAM).exists():
        return beside
    for file in distribution("ansible-core").files or ():
        if file.name == _PROGRAM and (found := Path(str(file.locate()))).exists():
            return found.resolve().parent
    if found_on_path := shutil.which(_PROGRAM):
        return Path(found_on_path).parent
    raise ProblemError(_no_programs(beside), "usage")


def asked_passwords(lab: Path) -> set[PasswordKind]:
    """Return the passwords that the user's own configuration of Ansible asks for, with ansible.cfg in `lab` or above.

    Raises ProblemError (usage) where ansible.cfg cannot be read, or has a vault identity that Ansible would ask for.
    """
    options = _options(_config_file(lab / "hosts.yml"))
    identities = os.environ.get("ANSIBLE_VAULT_IDENTITY_LIST", options.get("vault_identity_list", ""))
    if bad := [text.strip() for text in identities.split(",") if text.strip().rpartition("@")[2] in _VAULT_PROMPTS]:
        raise ProblemError(_vault_prompt(bad[0]), "usage")
    asked = {kind: os.environ.get(name, options.get(option, "")) for kind, (name, option) in _ASKING.items()}
    return {kind for kind, text in asked.items() if text.strip().lower() in _TRUE}


def search_path(name: str, option: str, settings: Settings, *first: Path) -> str:
    """Return a path list of Ansible: the folders `first`, then those of the user's variable `name` or ansible.cfg."""
    config = _config_file(settings.inventory)
    folders = os.environ.get(name, "").split(os.pathsep)
    if config and name not in os.environ:
        folders = [_resolve(text, config.parent) for text in _options(config).get(option, "").split(os.pathsep)]
    return os.pathsep.join([*map(str, first), *filter(None, folders)])


def _resolve(text: str, base: Path) -> str:
    """Return a path of ansible.cfg as Ansible reads it: relative to the folder of the file."""
    plain = text.strip().replace("{{CWD}}", str(Path.cwd()))
    return str(base / _expanded(plain)) if plain else ""


def _expanded(text: str) -> str:
    return os.path.expandvars(os.path.expanduser(text))  # noqa: PTH111  (pathlib raises an error where there is no home)


def _config_file(inventory: Path | None) -> Path | None:
    """Find ansible.cfg as Ansible does, and beside the inventory, which comes after the current folder."""
    if named := os.environ.get("ANSIBLE_CONFIG"):
        path = Path(_expanded(named)).absolute()
        path = path / "ansible.cfg" if path.is_dir() else path
        if path.exists():
            return path
    return next((path for path in _candidates(inventory) if path.is_file() and os.access(path, os.R_OK)), None)


def _candidates(inventory: Path | None) -> Iterator[Path]:
    here = Path.cwd()
    if not here.stat().st_mode & stat.S_IWOTH:  # Ansible ignores it in a world-writable folder
        yield here / "ansible.cfg"
    if inventory:
        yield inventory.absolute().parent / "ansible.cfg"
    with suppress(RuntimeError):  # there is no home directory
        yield Path.home() / ".ansible.cfg"
    yield Path("/etc/ansible/ansible.cfg")


def _options(config: Path | None) -> dict[str, str]:
    """Return the options of all sections of ansible.cfg. Bytes that are not UTF-8 are kept, as Ansible does."""
    parser = configparser.ConfigParser(interpolation=None, inline_comment_prefixes=(";",))
    if config and config.is_file():  # Ansible itself refuses a device
        try:
            parser.read_string(_config_text(config), str(config))
        except configparser.Error as error:
            raise ProblemError(_bad_config(*_config_error(config, error)), "usage") from None
    return {name: value or "" for section in parser.sections() for name, value in parser.items(section)}


def _config_text(config: Path) -> str:
    try:
        return config.read_text("utf-8", "surrogateescape")
    except OSError as error:
        raise ProblemError(_bad_config(str(config), error.strerror or str(error)), "usage") from None


def _config_error(config: Path, error: configparser.Error) -> tuple[str, str]:
    """Return the place of a mistake that keeps ansible.cfg from being read, and what it is."""
    number: int | None
    match error:
        case configparser.MissingSectionHeaderError():  # it is a ParsingError, too
            number, reason = error.lineno, _why_no_section(error.line.strip())
        case configparser.ParsingError():
            number, line = error.errors[0]
            reason = f"not NAME = VALUE: {line[:_MAX_SHOWN]}"
        case configparser.DuplicateOptionError():
            number, reason = error.lineno, f"{error.option} is here a second time in [{error.section}]"
        case configparser.DuplicateSectionError():
            number, reason = error.lineno, f"the section [{error.section}] is here a second time"
        case _:
            return str(config), " ".join(str(error).split())
    return f"{config}:{number}", reason


def _why_no_section(line: str) -> str:
    if "\0" in line:
        return "the file is in UTF-16"
    if line.startswith("\ufeff"):
        return "the file begins with a byte order mark"
    return f"no section such as [defaults] comes before {line[:_MAX_SHOWN]!r}"


def refused_setting(inventory: Path | None, output: str) -> Problem:
    """Return the problem of a value in ansible.cfg, or in a variable, with which no program of Ansible starts.

    `output`: what one of them said. The value is looked for in it, as the message names no line.
    """
    lines = [line for line in output.splitlines() if line.strip()]
    reason = next((line for line in lines if line.startswith("ERROR: ")), lines[-1] if lines else "it says nothing")
    reason = reason.removeprefix("ERROR: ").rstrip(":")
    variables = {name: text for name, text in os.environ.items() if name.startswith("ANSIBLE_")}
    variable = next((name for name, text in variables.items() if repr(text) in reason), None)
    config = _config_file(inventory)
    place = _line_with_value(config, reason) if config else "the surroundings of Ansible"
    return _bad_config(variable or place, reason)


def _line_with_value(config: Path, reason: str) -> str:
    """Return the file, with the first line whose value is in the reason, alone or with lines that continue it."""
    for number, line in enumerate(_config_text(config).splitlines() if config.is_file() else (), 1):
        value = repr(re.split(r"[=:]", line, maxsplit=1)[-1].partition(" ;")[0].strip())
        if value in reason or f"{value[:-1]}\\n" in reason:
            return f"{config}:{number}"
    return str(config)


def _utf8_locale() -> dict[str, str]:
    """Return a locale for Ansible where the user's own is not installed or not UTF-8: Ansible would not start."""
    before = locale.setlocale(locale.LC_ALL)
    try:
        locale.setlocale(locale.LC_ALL, "")
        usable = locale.getlocale()[1] == "UTF-8"
    except (locale.Error, ValueError):
        usable = False
    finally:
        locale.setlocale(locale.LC_ALL, before)
    return {} if usable else {"LC_ALL": "C.UTF-8"}


def _bad_config(place: str, reason: str) -> Problem:
    return Problem(
        "bad_ansible_cfg",
        f"{place}: {reason}",
        "it says how Ansible reaches the nodes, and Ansible does not start with a setting that it cannot read",
        "correct it until `ansible-config dump --only-changed` shows its settings: an INI file in UTF-8, without a "
        "byte order mark, that begins with a section such as [defaults]",
    )


def _no_programs(folder: Path) -> Problem:
    return Problem(
        "no_ansible",
        f"there is no {_PROGRAM} in {folder}, where ansible-core was installed, or on PATH",
        "nodes are reached by Ansible",
        "install provisioner again, in a virtual environment or with pipx, which put its programs beside its Python",
    )


def does_not_start(program: str, error: OSError) -> Problem:
    """Return the problem of a program of Ansible that this machine cannot start."""
    return Problem(
        "no_ansible",
        f"{program} does not start: {error.strerror or error}",
        "nodes are reached by Ansible; its programs name the Python that they were installed with",
        "install provisioner again, in a virtual environment or with pipx, which put its programs beside its Python",
    )


def _vault_prompt(identity: str) -> Problem:
    return Problem(
        "vault_prompt",
        f"vault_identity_list has {identity}, a vault password that Ansible asks for",
        "Ansible would ask once for each play, and the question is not shown",
        "name a file or a script in place of `prompt`, or leave it out and use --ask-vault-pass",
    )
