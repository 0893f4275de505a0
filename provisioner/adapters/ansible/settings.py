"""How Ansible is called: what a person gave on the command line, their own configuration, and what we add to it."""

import configparser
import os
import stat
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

FORKS = 25

# What we set where the person's own configuration does not: variable, option in ansible.cfg, value. A frozen node is
# noticed by its silence; without that ssh would wait for it for ever.
_UNLESS_SET = (
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
    """`inventory` None is this machine alone. `extra_vars` as a person typed them after -e."""

    inventory: Path | None
    forks: int | None = None
    vault_password_file: Path | None = None
    extra_vars: tuple[str, ...] = ()
    verbosity: int = 0

    def arguments(self) -> list[str]:
        vault = ["--vault-password-file", str(self.vault_password_file.absolute())] if self.vault_password_file else []
        return [*vault, *(word for text in self.extra_vars for word in ("-e", text))]


def environment(settings: Settings, count: int) -> dict[str, str]:
    """For every Ansible command, with the tools of our own virtual environment first; `count` nodes are asked."""
    config = _config_file(settings)
    known = set(_options(config)) if config else set()
    forks = settings.forks or min(max(count, 1), FORKS)
    wanted = (*_UNLESS_SET, ("ANSIBLE_FORKS", "forks", str(forks)))
    ours = {name: value for name, option, value in wanted if name not in os.environ and option not in known}
    if settings.forks:
        ours["ANSIBLE_FORKS"] = str(forks)
    if config:
        ours["ANSIBLE_CONFIG"] = str(config)
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)))
    # An inventory that cannot be read is an error, not an empty lab; so is a pattern that matches nothing.
    strict = {"ANSIBLE_INVENTORY_ANY_UNPARSED_IS_FAILED": "True", "ANSIBLE_HOST_PATTERN_MISMATCH": "error"}
    return {**ours, **strict, "PATH": path}


def module_utils(folder: Path, given: Mapping[str, str]) -> str:
    """`folder` before the folders that a person has set."""
    return os.pathsep.join(text for text in (str(folder), given.get("ANSIBLE_MODULE_UTILS")) if text)


def _config_file(settings: Settings) -> Path | None:
    """As Ansible looks for it, and in the lab's folder, too. None: Ansible's own search goes on (home, /etc)."""
    if "ANSIBLE_CONFIG" in os.environ:
        return Path(os.environ["ANSIBLE_CONFIG"]).absolute()
    return next((path for path in _candidates(settings) if path.is_file()), None)


def _candidates(settings: Settings) -> Iterator[Path]:
    here = Path.cwd()
    if not here.stat().st_mode & stat.S_IWOTH:  # whoever may write there could have put it there
        yield here / "ansible.cfg"
    if settings.inventory:
        yield settings.inventory.absolute().parent / "ansible.cfg"


def _options(config: Path) -> Iterator[str]:
    parser = configparser.ConfigParser(interpolation=None, strict=False, inline_comment_prefixes=(";",))
    parser.read(config)
    for section in parser.sections():
        yield from parser.options(section)
