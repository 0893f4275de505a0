"""A node that gets seats."""

from typing import NamedTuple

from provisioner.domain.lab.lock import LockedImage
from provisioner.domain.values.node import NodeFacts
from provisioner.domain.values.problem import Problem
from provisioner.workflow.protocols import Host


class ServedNode(NamedTuple):
    """A node that gets seats: from this image and with these GPUs (UUIDs). `remarks`: problems that prevent none."""

    host: Host
    facts: NodeFacts
    image: LockedImage
    gpus: tuple[str, ...]
    remarks: tuple[Problem, ...]
