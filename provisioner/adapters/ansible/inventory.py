"""Read the hosts of an inventory with Ansible itself, narrowed by --limit."""

import codecs
import json
import os
import re
import shlex
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import yaml

from provisioner.adapters.ansible.settings import Passwords, Settings, does_not_start, environment, refused_setting
from provisioner.domain.values.problem import Problem, ProblemError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
REGISTRY = "registry"  # the group of the host that runs the lab's registry
# The variables in the order in which Ansible puts their text on the command line of ssh.
_SSH_ARGUMENTS = ("ansible_ssh_args", "ansible_ssh_common_args", "ansible_ssh_extra_args")
_PROXY_JUMP = re.compile(r"proxyjump\s*[=\s]\s*(\S+)", re.IGNORECASE)
_JUMP = r"(?:[A-Za-z0-9_][A-Za-z0-9_.-]*@)?(?:[A-Za-z0-9][A-Za-z0-9.-]*|\[[0-9A-Fa-f:.]+\])(?::[1-9][0-9]{0,4})?"
_JUMPS = re.compile(f"(?!none$){_JUMP}(?:,{_JUMP})*")
_LOCKED_VAULT = "no vault secrets"  # in the message of Ansible where a file is encrypted and no password was given
_UNWRITABLE_HOME = "Unable to create local directories"  # in the message of Ansible; a path and a reason follow
_SSH_PORT, _LAST_PORT = 22, 65535
_OF_VARIABLES = {"", ".yml", ".yaml", ".json"}  # ends of names, as Ansible has them
_MAX_PLACES = 5
_MAX_OUTPUT = 2000  # characters
_MARK_BYTES = 3  # of the longest byte order mark
_TIMEOUT = 120  # seconds; an inventory may be a program that queries a cloud


@dataclass(frozen=True)
class InventoryHost:
    """A host of the inventory. `address`: ansible_host, None where it is not set or is a template.

    `jump`: the jump hosts that its variables give to ssh, as [USER@]HOST[:PORT] with commas between them; None: none.
    `port`: ansible_port, that of ssh where it is not set or is a template.
    """

    name: str
    address: str | None
    jump: str | None = None
    port: int = _SSH_PORT


def hosts(settings: Settings, limit: str | None) -> tuple[InventoryHost, ...]:
    """Return the nodes in the order of the inventory, without hosts that are only in the group `registry`.

    Raises ProblemError (usage) where the inventory cannot be read, no host matches, or a host name is not allowed.
    """
    if limit is not None and not limit.strip():  # to Ansible an empty limit means all hosts
        raise ProblemError(_no_hosts_matched(settings, limit, ()), "usage")
    listing, output = _list_inventory(settings, limit)
    if listing is None and limit:
        everything, output = _list_inventory(settings, None)
        if everything is not None:
            raise ProblemError(_no_hosts_matched(settings, limit, _names(everything)), "usage")
    if listing is None:
        raise ProblemError(_unreadable(settings, output), "usage")
    found = tuple(_host(name, listing["_meta"]["hostvars"].get(name, {})) for name in _names(listing))
    if not found:
        names = _names(_list_inventory(settings, None)[0] or {}) if limit else ()
        raise ProblemError(_no_hosts_matched(settings, limit, names, output), "usage")
    if output.strip() and settings.on_warning:
        settings.on_warning(output.strip())
    if bad := [host.name for host in found if not _NAME.fullmatch(host.name)]:
        raise ProblemError([_bad_name(name) for name in bad], "usage")
    return found


def registry_host(settings: Settings) -> InventoryHost | None:
    """Return the host of the group `registry`, None where the group is missing or empty.

    Raises ProblemError (usage) where the inventory cannot be read or the group has several hosts.
    """
    listing, output = _list_inventory(settings, None)
    if listing is None:
        raise ProblemError(_unreadable(settings, output), "usage")
    names = listing.get(REGISTRY, {}).get("hosts", [])
    if len(names) > 1:
        problem = Problem(
            "two_registries",
            f"the group {REGISTRY} of the inventory has {len(names)} hosts: {', '.join(names)}",
            "a lab has one registry, at registry.address in lab.yml",
            "leave one host in the group",
        )
        raise ProblemError(problem, "usage")
    return _host(names[0], listing["_meta"]["hostvars"].get(names[0], {})) if names else None


def _list_inventory(settings: Settings, limit: str | None) -> tuple[dict[str, Any] | None, str]:
    """Return the document of `ansible-inventory --list`, None where it fails, and its error output.

    Raises ProblemError for failures that have nothing to do with the inventory: a signal ended the command, or (usage)
    it cannot write to the home directory, or does not start with the user's own configuration.
    """
    limited = [f"--limit={limit}"] if limit else []
    argv = ["-i", str(settings.inventory), "--list", *limited, *settings.arguments()]
    # Not from stdout, where Ansible prints other lines with a verbosity, with ANSIBLE_DEBUG, and from plugins.
    with _vault_password(settings.passwords) as (arguments, descriptors), TemporaryFile() as document:
        output = ["--output", f"/dev/fd/{document.fileno()}"]
        try:
            done = _run_ansible(settings, [*argv, *arguments, *output], (*descriptors, document.fileno()))
        except subprocess.TimeoutExpired:
            return None, f"ansible-inventory did not end within {_TIMEOUT} s"
        listing = document.read()
    if done.returncode < 0:
        raise ProblemError(_killed(-done.returncode))
    if done.returncode and _UNWRITABLE_HOME in done.stderr:
        raise ProblemError(_unwritable_home(done.stderr), "usage")
    if done.returncode and (broken := _run_ansible(settings, ["--version"])).returncode:
        raise ProblemError(refused_setting(settings.inventory, broken.stderr), "usage")
    return (None if done.returncode else json.loads(listing)), done.stderr


def _run_ansible(
    settings: Settings, arguments: Sequence[str], descriptors: tuple[int, ...] = ()
) -> subprocess.CompletedProcess[str]:
    argv = ["ansible-inventory", *arguments]
    try:
        return subprocess.run(
            argv,
            env=os.environ | environment(settings, 1) | {"ANSIBLE_FORCE_COLOR": "False"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
            timeout=_TIMEOUT,
            pass_fds=descriptors,
        )
    except OSError as error:  # the folder of the environment was moved, and its programs name the Python of before
        raise ProblemError(does_not_start(argv[0], error), "usage") from None


@contextmanager
def _vault_password(passwords: Passwords) -> Iterator[tuple[list[str], tuple[int, ...]]]:
    """Yield arguments by which Ansible reads the vault password from a pipe, and the descriptor to pass on."""
    if passwords.vault is None:
        yield [], ()
        return
    reader, writer = os.pipe()
    try:
        with os.fdopen(writer, "w", encoding="utf-8") as file:
            file.write(passwords.vault)
        yield ["--vault-password-file", f"/dev/fd/{reader}"], (reader,)
    finally:
        os.close(reader)


def _names(listing: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(_hosts_of_group(listing, "all", frozenset())))


def _hosts_of_group(listing: Mapping[str, Any], group: str, parents: frozenset[str]) -> Iterator[str]:
    content = listing.get(group, {})
    yield from content.get("hosts", ())
    for child in content.get("children", ()):
        if child not in parents and child != REGISTRY:
            yield from _hosts_of_group(listing, child, parents | {group})


def _host(name: str, variables: Mapping[str, Any]) -> InventoryHost:
    address = variables.get("ansible_host")
    plain = address if isinstance(address, str) and "{" not in address else None
    return InventoryHost(name, plain, _jump(variables), _port(variables.get("ansible_port")))


def _port(given: object) -> int:
    """Return the port in a variable, a number or its digits."""
    text = str(given)
    number = int(text) if re.fullmatch("[0-9]{1,5}", text) else 0
    return number if 0 < number <= _LAST_PORT else _SSH_PORT


def _jump(variables: Mapping[str, Any]) -> str | None:
    """Return the first jump that the variables name: of several values of an option, ssh uses the first."""
    arguments = (variables.get(name) for name in _SSH_ARGUMENTS)
    found = (jump for text in arguments if isinstance(text, str) for jump in _jumps(text))
    first = next(found, "")
    return first if _JUMPS.fullmatch(first) else None


def _jumps(text: str) -> Iterator[str]:
    """Yield the value of each -J and -o ProxyJump. What a shell cannot split has none."""
    try:
        words = shlex.split(text)
    except ValueError:
        return
    for word, following in pairwise([*words, ""]):
        option = word[:2]
        value = (word[2:] or following).strip()
        if option == "-J":
            yield value
        elif option == "-o" and (match := _PROXY_JUMP.fullmatch(value)):
            yield match[1]


def _no_hosts_matched(settings: Settings, limit: str | None, names: tuple[str, ...], output: str = "") -> Problem:
    if limit is None:
        warnings = f": {output.strip()[-_MAX_OUTPUT:]}" if output.strip() else ""
        what, fix = f"the inventory has no hosts{warnings}", f"add nodes to {settings.inventory}"
    else:
        what = f"no host matches --limit {limit!r}, or a part of it matches none"
        fix = f"the inventory has: {', '.join(names[:20])}{', …' if names[20:] else ''}" if names else "correct --limit"
    why = "a run on no hosts would look like a success, and to Ansible an empty limit means all hosts"
    return Problem("no_hosts_matched", what, why, fix)


def _unwritable_home(output: str) -> Problem:
    return Problem(
        "home_unwritable",
        f"Ansible cannot make its folder: {output.partition(_UNWRITABLE_HOME)[2].splitlines()[0].strip()}",
        "it keeps temporary files in .ansible in your home directory",
        "set HOME, or ANSIBLE_HOME, to a directory that you can write to",
    )


def _killed(number: int) -> Problem:
    return Problem(
        "ansible_failed",
        f"ansible-inventory was killed by signal {number}",
        "the kernel kills programs where memory runs out; another program or a person may have done it, too",
        "run the command again; where memory ran out: journalctl -k shows it",
    )


def _unreadable(settings: Settings, output: str) -> Problem:
    fix = f"correct it until this command shows your nodes: ansible-inventory -i {settings.inventory} --graph"
    if _LOCKED_VAULT in output:
        fix = "give the vault password: --ask-vault-pass asks for it, --vault-password-file names a file"
    elif settings.inventory:
        places = ", ".join(islice(_broken_variables(settings.inventory), _MAX_PLACES))
        fix = _fix_of_form(settings.inventory) or (f"correct {places}" if places else fix)
    return Problem(
        "inventory_unreadable",
        f"Ansible cannot read {settings.inventory}: {output.strip()[-_MAX_OUTPUT:]}",
        "the inventory lists the nodes of the lab",
        fix,
    )


def _broken_variables(inventory: Path) -> Iterator[str]:
    """Yield the place of each mistake in a file of variables: the message of Ansible names no file."""
    base = inventory if inventory.is_dir() else inventory.parent
    found = (path for name in ("group_vars", "host_vars") for path in sorted((base / name).rglob("*")))
    for path in found:
        try:
            if path.suffix in _OF_VARIABLES and path.is_file():
                yaml.compose(path.read_bytes(), yaml.SafeLoader)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            yield f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
        except (yaml.YAMLError, OSError, RecursionError):
            yield str(path)


def _fix_of_form(inventory: Path) -> str | None:
    """Return how to correct a file whose form keeps it from being read: Ansible takes a script for a list of hosts."""
    with suppress(OSError):
        with inventory.open("rb") as file:
            start = file.read(_MARK_BYTES)
        if start.startswith(b"#!") and not os.access(inventory, os.X_OK):
            return f"a program is an inventory only where it may be run: chmod +x {shlex.quote(str(inventory))}"
        if start.startswith((codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            return f"save {inventory} as UTF-8, without a byte order mark"
    return None


def _bad_name(name: str) -> Problem:
    return Problem(
        "bad_host_name",
        f"not a plain host name: {name[:80]!r}",
        "Ansible would read it as a pattern, a range or an option, and it is used as a file name",
        "use letters, digits, dots, dashes and underscores, and give the address as ansible_host",
    )
