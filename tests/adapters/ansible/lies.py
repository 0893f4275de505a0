"""Strategies for what a broken or lying node may send."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from hypothesis import strategies as st

from provisioner.domain.values.limits import OpenFiles, SeatLimits
from provisioner.domain.values.node import Account, DiskUse, NodeFacts, RunningSeat
from tests.builders import CAPACITY, a_gpu, a_node
from tests.playbooks.node_code import module_util

TEXTS = st.text(max_size=20) | st.sampled_from(
    [
        "0.0.0.0",
        "224.0.0.1",
        "255.255.255.255",
        "::1",
        "²",
        "GPU-1",
        "linux/evil\n",
        "9" * 400,
        "../..",
        "{{ x }}",
        "$x",
        "\ud800",
    ]
)
NUMBERS = st.integers() | st.floats() | st.sampled_from([10**4299, -1, 2**63, 1e308, 65536])
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda below: st.lists(below, max_size=3) | st.dictionaries(TEXTS, below, max_size=3),
    max_leaves=8,
)


def valid_facts(name: str = "lying") -> NodeFacts:
    seat = RunningSeat(
        name="demo-student",
        generation=1,
        image="old",
        person="anna",
        uid=5001,
        home="/srv/homes/anna",
        files={"sshd_config": "x\n"},
        ports={"ssh": 22000, "jupyter": 22001},
        services={"ssh": "healthy"},
        limits=SeatLimits(memory="56g", cpus=15.0, nofile=OpenFiles(soft=65536, hard=524288)),
        capacity=CAPACITY,
        disk=DiskUse(measured_at=datetime(2026, 11, 30, 3, tzinfo=UTC), home_bytes=7, layer_bytes=1, complete=True),
        disk_limit=8,
    )
    mig = str(a_gpu(name, index=2).uuid).replace("GPU-", "MIG-")
    gpus = (a_gpu(name), a_gpu(name, index=1, mig_enabled=True), a_gpu(name, index=1, instance=0, uuid=mig))
    accounts = {"anna": Account(uid=5001, gid=100, home="/home/anna", groups=("users", "ml")), "gone": Account()}
    images = (f"sha256:{'a' * 64}",)
    return a_node(name, gpus=gpus, toolkit_version="1.17.3", seats=(seat,), images=images, accounts=accounts)


def as_sent(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return facts in the form in which a probe sends them, from the form in which they are written as JSON."""
    packed = {"accounts": module_util("base.packing").pack(json.dumps(facts.get("accounts", {})))}
    return {**facts, **module_util("seat.facts").pack_files(facts["seats"]), **packed}


def with_lies(honest: Mapping[str, Any]) -> st.SearchStrategy[Any]:
    """Replace one value of a JSON document, at any depth, by any other."""
    return st.sampled_from(_places(honest)).flatmap(
        lambda place: VALUES.map(lambda value: _replaced(honest, place, value))
    )


def _places(part: Any, above: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    pairs = part.items() if isinstance(part, Mapping) else enumerate(part) if isinstance(part, list) else ()
    return [above, *(place for key, value in pairs for place in _places(value, (*above, key)))]


def _replaced(part: Any, place: tuple[str | int, ...], value: Any) -> Any:
    if not place:
        return value
    copy = dict(part) if isinstance(part, Mapping) else list(part)
    copy[place[0]] = _replaced(part[place[0]], place[1:], value)  # type: ignore[index]
    return copy
