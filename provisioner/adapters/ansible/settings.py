"""Arguments and environment of Ansible commands: from options, from the user's own configuration, and our defaults."""

import configparser
import os
import stat
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

FORKS = 25

# Set where the user's own configuration does not: variable, option in ansible.cfg, value. ServerAliveInterval ends the
# connection to a frozen node; without it ssh would wait forever.
_DEFAULTS = (
    ("ANSIBLE_PIPELINING", "pipelining", "True"),
    ("ANSIBLE_TIMEOUT", "timeout", "10"),
    (
        "ANSIBLE_SSH_ARGS",
        "ssh_args",
        "-C -o ControlMaster=auto -o ControlPersist=60s -o ServerAliveInterval=10 -o ServerAliveCountMax=3",
    ),
)


@dataclass(frozen=True)
class Settings:
    """How Ansible is called. `inventory` None: on this machine alone. `extra_vars`: each as typed after -e."""

    inventory: Path | None
    forks: int | None = None
    vault_password_file: Path | None = None
    extra_vars: tuple[str, ...] = ()
    verbosity: int = 0

    def arguments(self) -> list[str]:
        """Return the command line arguments for the vault password file and the extra variables."""
        vault = ["--vault-password-file", str(self.vault_password_file.absolute())] if self.vault_password_file else []
        return [*vault, *(word for text in self.extra_vars for word in ("-e", text))]


def environment(settings: Settings, count: int) -> dict[str, str]:
    """Return the environment of an Ansible command on `count` nodes. Our virtual environment is first on PATH."""
    config = _config_file(settings)
    known = set(_options(config)) if config else set()
    forks = settings.forks or min(max(count, 1), FORKS)
    wanted = (*_DEFAULTS, ("ANSIBLE_FORKS", "forks", str(forks)))
    ours = {name: value for name, option, value in wanted if name not in os.environ and option not in known}
    if settings.forks:
        ours["ANSIBLE_FORKS"] = str(forks)
    if config:
        ours["ANSIBLE_CONFIG"] = str(config)
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)))
    # An unreadable inventory and a pattern without a match are errors; Ansible would go on with no hosts.
    strict = {"ANSIBLE_INVENTORY_ANY_UNPARSED_IS_FAILED": "True", "ANSIBLE_HOST_PATTERN_MISMATCH": "error"}
    return {**ours, **strict, "PATH": path}


def module_utils(folder: Path, given: Mapping[str, str]) -> str:
    """`folder` before the folders that a person has set."""
    return os.pathsep.join(text for text in (str(folder), given.get("ANSIBLE_MODULE_UTILS")) if text)


def _config_file(settings: Settings) -> Path | None:
    """Find ansible.cfg as Ansible does, and beside the inventory. None: Ansible searches on its own (home, /etc)."""
    if "ANSIBLE_CONFIG" in os.environ:
        return Path(os.environ["ANSIBLE_CONFIG"]).absolute()
    return next((path for path in _candidates(settings) if path.is_file()), None)


def _candidates(settings: Settings) -> Iterator[Path]:
    here = Path.cwd()
    if not here.stat().st_mode & stat.S_IWOTH:  # Ansible ignores it in a world-writable folder
        yield here / "ansible.cfg"
    if settings.inventory:
        yield settings.inventory.absolute().parent / "ansible.cfg"


def _options(config: Path) -> Iterator[str]:
    parser = configparser.ConfigParser(interpolation=None, strict=False, inline_comment_prefixes=(";",))
    parser.read(config)
    for section in parser.sections():
        yield from parser.options(section)
