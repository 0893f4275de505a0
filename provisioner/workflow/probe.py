"""Ask every node what it is, all at once."""

from provisioner.domain.values.event import Event, OnEvent
from provisioner.domain.values.node import NodeFacts
from provisioner.workflow.protocols import Fleet, Probed


def probe(fleet: Fleet, on_event: OnEvent) -> Probed:
    """Facts or the reason for their absence, for every host that the inventory and its limit name."""
    hosts = [host.name for host in fleet.hosts()]
    on_event(Event(phase="probe", kind="started", text=f"asking {len(hosts)} nodes", total=len(hosts)))
    probed = fleet.probe(hosts)
    seen = sum(isinstance(facts, NodeFacts) for facts in probed.values())
    on_event(
        Event(phase="probe", kind="done", text=f"{seen} of {len(hosts)} nodes answered", done=seen, total=len(hosts))
    )
    return probed
