"""A person's own seat on a node, as the node describes it, and the lines by which ssh on their computer reaches it.

The lines are made of fields that have been checked: no text of a node becomes a setting of ssh.
"""

import fnmatch
import json
import re
from collections.abc import Sequence
from ipaddress import IPv4Address
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, StringConstraints, ValidationError

from provisioner.domain.rollout.letter import Alias, HostKey, LoginName
from provisioner.domain.values.model import Value
from provisioner.domain.values.node import GpuUuid
from provisioner.domain.values.problem import Problem

ME_SCHEMA: Literal["provisioner/me/1"] = "provisioner/me/1"
PROBLEMS_SCHEMA: Literal["provisioner/problems/1"] = "provisioner/problems/1"
INCLUDE = "config.d/provisioner-*.conf"  # relative to ~/.ssh
KNOWN_HOSTS = "provisioner_known_hosts"
RUNNING = ("running", "ending")
MOST_HOURS = 24 * 366
_NODE = re.compile(r"([A-Za-z0-9_][A-Za-z0-9_.-]{0,63}@)?([A-Za-z0-9_][A-Za-z0-9_.-]{0,252}|[0-9A-Fa-f:]{2,45})")
_TOKEN_URL = re.compile(r"http://[0-9.]{7,15}:[0-9]{1,5}/lab\?token=(?P<token>[0-9a-f]{16,128})\n?")
_ALIAS_LENGTH = 80
_HEAD = "# Written by provision me, which replaces it whenever it starts the seat.\n"
_NODE_LINE = "# node: "


def _usable(text: str) -> str:
    address = IPv4Address(text)
    if address.is_unspecified or address.is_multicast:
        raise ValueError(f"{text} is no address of a node")
    return text


class SeatLogin(Value):
    """How sshd of the seat is reached from its node. `host` may be a loopback address."""

    host: Annotated[str, StringConstraints(max_length=15), AfterValidator(_usable)]
    port: Annotated[int, Field(ge=1, le=65535)]
    user: LoginName
    host_key: HostKey


class OwnSeat(Value):
    """A seat that runs. `gpus`: UUIDs. `left_s`: seconds until its end."""

    name: Alias
    ssh: SeatLogin
    gpus: tuple[GpuUuid, ...]
    left_s: Annotated[float, Field(ge=0, le=MOST_HOURS * 3600)]
    environment: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
    version: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{0,64}$")]


class MeAnswer(Value):
    """What a node answers to `provision me up`."""

    schema_: Annotated[Literal["provisioner/me/1"], Field(alias="schema")]
    state: Literal["running", "ending"]
    seat: OwnSeat
    problems: Annotated[tuple[Problem, ...], Field(max_length=16)] = ()


class SshEntry(Value):
    """A host for ssh's configuration. `jump`: the node, where the seat is reached through it only.

    `identities`: names of private keys in ~/.ssh.
    """

    alias: Alias
    node: str
    login: SeatLogin
    jump: bool
    identities: tuple[Annotated[str, StringConstraints(pattern=r"^id_[A-Za-z0-9_.-]{1,64}$")], ...] = ()


def check_node(node: str) -> str:
    """Return what ssh calls a node: an alias, HOST or USER@HOST. Raises ValueError with a message for the user."""
    if not _NODE.fullmatch(node):
        raise ValueError(f"{node!r} is not HOST or USER@HOST; give another port in ~/.ssh/config")
    return node


def alias_of(node: str, seat: str) -> str:
    """Return the name of a seat for ssh: of its node and its lab, such as gpu1-ml.

    The name of the seat itself would be the same on each node. `seat`: LAB_PERSON; a lab has no `_`.
    """
    host = _host_of(node)
    return _alias(host if re.fullmatch("[0-9a-f.:]*[0-9.:][0-9a-f.:]*", host) else host.partition(".")[0], seat)


def long_alias_of(node: str, seat: str) -> str:
    """Return the name of a seat for ssh where that of `alias_of` is taken: of the whole name of its node."""
    return _alias(_host_of(node), seat)


def _alias(label: str, seat: str) -> str:
    return f"{re.sub('[^a-z0-9]+', '-', label).strip('-')}-{seat.partition('_')[0]}"[:_ALIAS_LENGTH]


def _host_of(node: str) -> str:
    return node.rpartition("@")[2].lower()


def is_of_other_node(text: str, known_hosts: str, entry: SshEntry) -> bool:
    """Return whether the name of a seat for ssh is that of a seat on another node by now.

    `text`: the file of this name in ssh's configuration, see `entry_file`; one without a node is free. The same
    node may be called by another name: then the seat has the host key that is known already.
    """
    named = [line.removeprefix(_NODE_LINE) for line in text.splitlines() if line.startswith(_NODE_LINE)]
    return named[:1] not in ([], [_host_of(entry.node)]) and changes_key(known_hosts, entry)


def parse_me_answer(text: str) -> MeAnswer | tuple[Problem, ...]:
    """Return what a node has answered to `me up --json`: the seat, or why there is none.

    Raises ValueError where it is neither, with the names of the fields that are not what they should be.
    """
    found = parse_document(text)
    if found.get("schema") == PROBLEMS_SCHEMA:
        return parse_problems(found)
    if found.get("state") not in RUNNING:
        problems = parse_problems(found)
        if problems:
            return problems
    try:
        return MeAnswer.model_validate(found)
    except ValidationError as error:
        raise ValueError(_wrong_fields(error)) from None


def parse_document(text: str) -> dict[str, Any]:
    """Return the JSON object in the last line: a shell may print a greeting first. Raises ValueError."""
    try:
        found = json.loads(text.rstrip().rpartition("\n")[2])
    except (ValueError, RecursionError):
        raise ValueError("it is not JSON") from None
    if not isinstance(found, dict) or found.get("schema") not in (ME_SCHEMA, PROBLEMS_SCHEMA):
        raise ValueError("it is not a document of this command")
    return found


def parse_problems(found: dict[str, Any]) -> tuple[Problem, ...]:
    """Return the problems in a document. Raises ValueError."""
    problems = found.get("problems")
    try:
        return tuple(Problem(**problem) for problem in problems) if isinstance(problems, list) else ()
    except (TypeError, ValidationError):
        raise ValueError("its problems cannot be read") from None


def _wrong_fields(error: ValidationError) -> str:
    """Return the names of fields, and no values: they may hold anything."""
    names = dict.fromkeys(".".join(map(str, item["loc"])) for item in error.errors())
    return f"not what they should be: {', '.join(names)}"


def entry_file(entry: SshEntry) -> str:
    """Return the file of ssh's configuration for a seat."""
    return f"{_HEAD}{_NODE_LINE}{_host_of(check_node(entry.node))}\n{stanza(entry)}"


def stanza(entry: SshEntry) -> str:
    """Return the lines of ssh's configuration for a seat."""
    login = entry.login
    lines = [
        f"Host {entry.alias}",
        f"  HostName {login.host}",
        f"  Port {login.port}",
        f"  User {login.user}",
        f"  HostKeyAlias {entry.alias}",
        f"  UserKnownHostsFile ~/.ssh/{KNOWN_HOSTS}",
        "  StrictHostKeyChecking yes",
        *(["  IdentitiesOnly yes"] if entry.identities else []),
        *(f"  IdentityFile ~/.ssh/{name}" for name in entry.identities),
        *([f"  ProxyJump {check_node(entry.node)}"] if entry.jump else []),
    ]
    return "".join(f"{line}\n" for line in lines)


def known_host(entry: SshEntry) -> str:
    """Return the line of known_hosts for a seat."""
    return f"{entry.alias} {entry.login.host_key}\n"


def with_known_host(text: str, entry: SshEntry) -> str:
    """Return the text of a known_hosts file with the key of a seat, in place of an older one."""
    others = [line for line in text.splitlines() if line.split(" ")[0] != entry.alias]
    return "".join(f"{line}\n" for line in others) + known_host(entry)


def changes_key(text: str, entry: SshEntry) -> bool:
    """Return whether a known_hosts file has another key for a seat: it was made anew since."""
    known = [line for line in text.splitlines() if line.split(" ")[0] == entry.alias]
    return bool(known) and known_host(entry).strip() not in known


def has_include(config: str) -> bool:
    """Return whether ssh reads our files: they are included, and not below a line that limits it to some hosts."""
    for line in config.splitlines():
        words = line.replace("=", " ", 1).replace('"', " ").split()
        keyword = words[0].lower() if words else ""
        if keyword in ("host", "match"):
            return False
        if keyword == "include" and any(map(_covers, words[1:])):
            return True
    return False


def _covers(pattern: str) -> bool:
    return fnmatch.fnmatchcase("config.d/provisioner-x.conf", re.sub(r"^(~|/.*)/\.ssh/", "", pattern))


def with_include(config: str) -> str:
    """Return ssh's configuration with our files included in front; no other line changes."""
    return config if has_include(config) else f"Include {INCLUDE}\n\n{config}"


def tunnel_command(alias: str) -> str:
    """Return the command that makes Jupyter of a seat reachable on this computer."""
    return f"ssh -N -L 8888:jupyter:8888 {alias}"


def token_url(text: str, port: int) -> str | None:
    """Return the URL of Jupyter behind a tunnel at this port, with the token that `provision-url` has printed.

    None where it has printed something else.
    """
    found = _TOKEN_URL.fullmatch(text)
    return f"http://127.0.0.1:{port}/lab?token={found['token']}" if found else None


def choose_identities(files: Sequence[tuple[str, str]], keys: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the private keys whose public ones are sent. `files`: name of a private key, public key."""
    return tuple(dict.fromkeys(name for name, key in files if key in keys))
