"""Probe all nodes at once."""

from provisioner.domain.values.event import Event, OnEvent
from provisioner.domain.values.node import NodeFacts
from provisioner.workflow.protocols import Fleet, Probed


def probe(fleet: Fleet, on_event: OnEvent) -> Probed:
    """Return facts, or the reason for their absence, of every host that the inventory and its limit name."""
    hosts = [host.name for host in fleet.hosts()]
    total = len(hosts)
    noun = "node" if total == 1 else "nodes"
    on_event(Event(phase="probe", kind="started", text=f"probing {total} {noun}", total=total))
    probed = fleet.probe(hosts)
    answered = sum(isinstance(facts, NodeFacts) for facts in probed.values())
    text = f"{answered} of {total} {noun} answered"
    on_event(Event(phase="probe", kind="done", text=text, done=answered, total=total))
    return probed
