"""Fill the slots of a document with the values of a seat: the control machine and the nodes run this same file.

So it uses the standard library only, as of Python 3.8. A document is {"files": {NAME: [TEXT, SLOT, TEXT, ...]}}: texts,
and between them the names of slots.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from ipaddress import IPv4Address, IPv4Network
from typing import TYPE_CHECKING, Any

# Folders that can never contain a home: those of the system, and the engine's socket and data.
SYSTEM_FOLDER = r"/(bin|boot|dev|etc|lib\w*|proc|root|run|sbin|sys|usr|var/(run|lib/(docker|containerd)))(/|$)"
MAX_USER_ID = 2**31 - 2  # of an account; a directory service gives numbers far above those of local accounts
HOST_NAME = r"[a-zA-Z0-9]([a-zA-Z0-9.-]{0,61}[a-zA-Z0-9])?"

# Text that keeps its meaning between the quotes of YAML and of a shell.
_PLAIN = "[^\x00-\x1f\x7f-\xa0\"'$`\\\\\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]"
_RULES = {
    "seat": "[a-z][a-z0-9_-]{0,62}",
    "node": f"{_PLAIN}{{1,253}}",
    "person": f"{_PLAIN}{{0,253}}",
    "user": "[A-Za-z0-9_][A-Za-z0-9._-]{0,63}",
    "id": "[1-9][0-9]{0,9}",
    "home": f"(?!{SYSTEM_FOLDER})(?!.*/\\.\\.?(/|$))(/[A-Za-z0-9._@+-]+){{2,}}",
    "hostname": HOST_NAME,
    "port": "[1-9][0-9]{3,4}",
    "gpu": "(GPU|MIG)(-[0-9a-fA-F]+){5}",
    "gpu_driver": "nvidia|cdi",
    "count": "[1-9][0-9]{0,9}",
    "cpus": r"[0-9]{1,9}(\.[0-9]{1,17})?",
    "size": "[1-9][0-9]{0,11}[kmg]",
    "authorized_keys": "([^\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+\n)*",
}

if TYPE_CHECKING:  # Python 3.8 does not give parameters to this type
    Seat = Mapping[str, Any]


def fill(document: Mapping[str, Any], seat: Seat) -> dict[str, str]:
    """Return the files of a seat. `seat`: its values as JSON. Raises ValueError where a value does not fit its slot."""
    slots = _Slots(seat)
    return {
        name: "".join(slots[part] if number % 2 else part for number, part in enumerate(parts))
        for name, parts in document["files"].items()
    }


def slotted(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the document with only those of its files that have slots."""
    return {"files": {name: parts for name, parts in document["files"].items() if len(parts) > 1}}


def slot_values(seat: Seat) -> dict[str, str]:
    """Return the text of every slot. Raises ValueError where a value does not fit."""
    slots = _Slots(seat)
    return {name: slots[name] for name in _VALUES}


class _Slots:
    """The texts of the slots of a seat, each made when it is first used."""

    def __init__(self, seat: Seat) -> None:
        self._seat = seat
        self._texts: dict[str, str] = {}

    def __getitem__(self, name: str) -> str:
        if name not in self._texts:
            if name not in _VALUES:
                raise ValueError(f"there is no slot {name!r}")
            self._texts[name] = _VALUES[name](self._seat)
        return self._texts[name]


def _checked(rule: str, value: object) -> str:
    text = str(value)
    if not re.fullmatch(_RULES[rule], text):
        raise ValueError(f"{text[:80]!r} does not fit the slot {rule}")
    return text


def _user_id(value: object) -> str:
    text = _checked("id", value)
    if int(text) > MAX_USER_ID:
        raise ValueError(f"an account has a number up to {MAX_USER_ID}, not {text}")
    return text


def _address(value: object) -> str:
    """Check the address of one interface."""
    text = str(value)
    address = IPv4Address(text)
    if address.is_unspecified or address.is_multicast or str(address) != text:
        raise ValueError(f"{text!r} is not the address of one interface")
    return text


def _subnet(value: object) -> str:
    text = str(value)
    if str(IPv4Network(text)) != text:
        raise ValueError(f"{text!r} is not an IPv4 network")
    return text


def host_name(node: str, seat: str) -> str:
    """Return the host name of the containers: the name of the node where it can be one, else that of the seat."""
    return node if re.fullmatch(HOST_NAME, node) else seat.replace("_", "-").strip("-")


def device_names(driver: str, gpus: Iterable[str]) -> list[str]:
    """Return the names of GPUs (UUIDs) for a driver: CDI names or UUIDs."""
    prefix = "nvidia.com/gpu=" if driver == "cdi" else ""
    return [f"{prefix}{uuid}" for uuid in gpus]


def visible_devices(driver: str, gpus: Sequence[str]) -> str | None:
    """Return the value of NVIDIA_VISIBLE_DEVICES; None where the driver reservation sets the variable itself.

    Images set it to `all`, which takes effect where nvidia is the default runtime. CDI specifications use `void` too.
    """
    return None if gpus and driver == "nvidia" else "void"


def _visible_devices_line(seat: Seat) -> str:
    value = visible_devices(seat["gpu_driver"], seat["gpus"])
    return f'      NVIDIA_VISIBLE_DEVICES: "{value}"\n' if value else ""


def _deploy_lines(seat: Seat) -> str:
    """Return the section that reserves the GPUs, as compose_text writes it; nothing without GPUs."""
    if not seat["gpus"]:
        return ""
    driver = _checked("gpu_driver", seat["gpu_driver"])
    names = device_names(driver, (_checked("gpu", uuid) for uuid in seat["gpus"]))
    ids = "".join(f'            - "{name}"\n' for name in names)
    return (
        "    deploy:\n      resources:\n        reservations:\n          devices:\n"
        f'          - driver: "{driver}"\n            device_ids:\n{ids}'
        '            capabilities:\n            - "gpu"\n'
    )


def _limit_line(key: str, value: object) -> str:
    return f'    {key}: "{_checked("size", value)}"\n' if value else ""


def _cpus_line(seat: Seat) -> str:
    cpus = seat["limits"]["cpus"]
    return "" if cpus is None else f"    cpus: {_checked('cpus', float(cpus))}\n"


def _nofile_lines(seat: Seat) -> str:
    limit = seat["limits"]["nofile"]
    if not limit:
        return ""
    soft, hard = _checked("count", limit["soft"]), _checked("count", limit["hard"])
    return f"      nofile:\n        soft: {soft}\n        hard: {hard}\n"


def culling_lines(seconds: int) -> str:
    """Return the lines of Jupyter's configuration that end a kernel after so many idle seconds; none for 0.

    A kernel that runs code is never ended, and an open browser does not keep one: it would keep the memory of a GPU.
    """
    if not seconds:
        return ""
    return (
        f"c.MappingKernelManager.cull_idle_timeout = {_checked('count', seconds)}\n"
        "c.MappingKernelManager.cull_busy = False\nc.MappingKernelManager.cull_connected = True\n"
    )


def _authorized_keys(seat: Seat) -> str:
    return _checked("authorized_keys", "".join(f"{key}\n" for key in seat["authorized_keys"]))


# The slots that hold whole lines are those of options which a seat may lack.
_VALUES: dict[str, Callable[[Seat], str]] = {
    "seat": lambda seat: _checked("seat", seat["name"]),
    "node": lambda seat: _checked("node", seat["node"]),
    "person": lambda seat: _checked("person", seat["person"]),
    "user": lambda seat: _checked("user", seat["user"]),
    "uid": lambda seat: _user_id(seat["uid"]),
    "gid": lambda seat: _user_id(seat["gid"]),
    "home": lambda seat: _checked("home", seat["home"]),
    "hostname": lambda seat: _checked("hostname", host_name(seat["node"], seat["name"])),
    "ssh_port": lambda seat: _checked("port", seat["ports"]["ssh"]),
    "jupyter_port": lambda seat: _checked("port", seat["ports"]["jupyter"]),
    "ssh_bind": lambda seat: _address(seat["binds"]["ssh"]),
    "jupyter_bind": lambda seat: _address(seat["binds"]["jupyter"]),
    "subnet": lambda seat: _subnet(seat["subnet"]),
    "pids": lambda seat: _checked("count", seat["limits"]["pids"]),
    "shm": lambda seat: _checked("size", seat["limits"]["shm"]),
    "mem_limit": lambda seat: _limit_line("mem_limit", seat["limits"]["memory"]),
    "memswap_limit": lambda seat: _limit_line("memswap_limit", seat["limits"]["memory"]),
    "cpus": _cpus_line,
    "nofile": _nofile_lines,
    "visible_devices": _visible_devices_line,
    "deploy": _deploy_lines,
    "culling": lambda seat: culling_lines(seat.get("cull_s", 0)),
    "authorized_keys": _authorized_keys,
}
