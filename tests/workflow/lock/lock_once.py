"""Print one lock and one selection for mixed nodes; SEED shuffles the order of nodes, GPUs and tags.

`python -m tests.workflow.lock.lock_once SEED`
"""

import json
import random
import sys

from provisioner.adapters.lab.compatibility_data import load
from provisioner.adapters.lab.lockfile import lock_text
from provisioner.domain.selection.selection import select
from provisioner.domain.values.image import TaggedImage
from provisioner.domain.values.node import NodeFacts, NodeProfile
from provisioner.domain.values.sync import SyncState
from provisioner.workflow.lock.lock import choose_all, make_lock
from tests.builders import a_gpu, a_lab, a_node
from tests.workflow.lock.test_lock import ABuilder, AMirror

_CARDS = [
    ("NVIDIA GeForce RTX 5090", "12.0", "geforce", "open", "580.95.05"),
    ("NVIDIA GeForce RTX 4090", "8.9", "geforce", "open", "570.172.08"),
    ("Tesla V100-SXM2-16GB", "7.0", "tesla", "proprietary", "535.183.01"),
    ("NVIDIA GeForce GTX 1080 Ti", "6.1", "geforce", "proprietary", "535.183.01"),
    ("Tesla K80", "3.7", "tesla", "proprietary", "470.256.02"),
]
_TAGS = [
    f"{torch}-cuda{cuda}-cudnn9-runtime"
    for torch, cuda in (
        ("2.8.0", "12.8"),
        ("2.10.0", "12.8"),
        ("2.11.0", "12.8"),
        ("2.14.1", "12.6"),
        ("2.14.1", "13.0"),
    )
]


def main(seed: int) -> None:
    order = random.Random(seed)
    names = [f"n{place}" for place in range(12)]
    tags = list(_TAGS)
    order.shuffle(names)
    order.shuffle(tags)
    probed = {name: _node(name) for name in names}
    events: list[object] = []
    named = {"nlp": {"torch": "2.8.0"}, "cv": {}, "rl": {"torch": "2.11.*"}}
    environments = [*named]
    order.shuffle(environments)
    lab = a_lab(environments={name: named[name] for name in environments})
    chosen = choose_all(lab, (), probed, AMirror(dict.fromkeys(tags, SyncState.COMPLETE)), load(), events.append)
    mixed = [_mixed(name, order) for name in names]
    selection = select(
        mixed, [TaggedImage(reference=f"{repository}:{tag}") for tag in tags for repository in "ba"], load()
    )
    nodes = {name: (node["tag"], node["verdicts"]) for name, node in selection.to_json()["nodes"].items()}
    sys.stdout.buffer.write(json.dumps([selection.decision, nodes]).encode() + b"\n")
    sys.stdout.buffer.write(
        lock_text(make_lock(lab, probed, chosen, ABuilder(), load(), registry_ca=None, before=None).lock).encode()
    )


def _mixed(name: str, order: random.Random) -> NodeProfile:
    """Return a node with three kinds of GPUs in any order: the output does not name their places."""
    at = int(name[1:])
    cards = [_CARDS[(at + step) % len(_CARDS)] for step in range(3)]
    gpus = [{"name": card[0], "compute_capability": card[1]} for card in cards]
    order.shuffle(gpus)
    return NodeProfile.model_validate({"name": name, "driver": cards[0][4], "gpus": gpus})


def _node(name: str) -> NodeFacts:
    title, capability, brand, module, driver = _CARDS[int(name[1:]) % len(_CARDS)]
    gpu = a_gpu(name, 0, capability, name=title, brand=brand)
    return a_node(name, gpus=(gpu,), driver=driver, kernel_module=module)


if __name__ == "__main__":
    main(int(sys.argv[1]))
