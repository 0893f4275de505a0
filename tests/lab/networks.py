"""A lab's two networks: `lab` for nodes and their registry, `wan` for the mirror that only the host can reach.

Both are internal: there is no route out of the machine, and none between the two.
"""

import fcntl
from dataclasses import dataclass
from pathlib import Path

from tests.lab.engine import Engine
from tests.lab.host import BedError, run

LABEL = "testbed.lab"
# RFC 2544 reserves these addresses for test networks: no real host has one.
TEST_NETWORKS = "198.18.0.0/15"
MIRROR_PORT = 5200
REGISTRY_PORT = 5201
FIRST_NODE = 11
CLAIMS = Path("/run/lock/provisioner-testbed.networks")


@dataclass(frozen=True)
class Addresses:
    """Networks 198.18.NET.0/24 (lab) and 198.18.NET+1.0/24 (wan)."""

    net: int

    @property
    def lab(self) -> str:
        return f"198.18.{self.net}"

    @property
    def wan(self) -> str:
        return f"198.18.{self.net + 1}"

    @property
    def gateway(self) -> str:
        """Address of this machine in the network `lab`."""
        return f"{self.lab}.1"

    @property
    def mirror(self) -> str:
        return f"{self.wan}.2"

    @property
    def registry(self) -> str:
        return f"{self.lab}.3"

    def node(self, index: int) -> str:
        return f"{self.lab}.{FIRST_NODE + index}"


def keep_packets_in() -> None:
    """Add a route that stops packets for removed labs from leaving the machine by the default route."""
    run("ip", "route", "replace", "unreachable", TEST_NETWORKS, "metric", "4000")


def let_bridges_pass() -> None:
    """Allow traffic on a lab's bridge if the machine's firewall also filters bridges.

    With another Docker Engine it does, and drops what that engine does not allow. The one rule that is added covers
    only the test networks and packets that stay on their bridge.
    """
    filtered = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")
    bridged = ("-m", "physdev", "--physdev-is-bridged", "-s", TEST_NETWORKS, "-d", TEST_NETWORKS, "-j", "ACCEPT")
    if not filtered.exists() or filtered.read_text().strip() == "0":
        return
    if run("iptables", "-C", "FORWARD", *bridged, check=False).returncode:
        run("iptables", "-I", "FORWARD", *bridged)


def claim(engine: Engine, prefix: str, net: int | None) -> Addresses:
    """Create the networks of lab `prefix` on `net` or on the first free one; raise BedError if there is none.

    A lock covers the whole machine: an engine refuses its own subnets, but not those of another engine.
    """
    candidates = range(0, 256, 2) if net is None else [net]
    with CLAIMS.open("w") as claims:
        fcntl.flock(claims, fcntl.LOCK_EX)
        for addresses in map(Addresses, candidates):
            if not _in_use(addresses) and _create(engine, prefix, "lab", addresses.lab):
                if _create(engine, prefix, "wan", addresses.wan):
                    return addresses
                engine.docker("network", "rm", f"{prefix}-lab")
    raise BedError(f"no free network for lab {prefix} among 198.18.{list(candidates)}.0/24")


def labs(engine: Engine) -> list[str]:
    """Return the prefixes of the running labs."""
    names = engine.docker("network", "ls", "--filter", f"label={LABEL}", "--format", "{{.Name}}").split()
    return [name.removesuffix("-lab") for name in names if name.endswith("-lab")]


def _in_use(addresses: Addresses) -> bool:
    """Whether an interface of this machine, such as one of another bed, has the addresses."""
    taken = run("ip", "-o", "-4", "address").stdout
    return f" {addresses.lab}." in taken or f" {addresses.wan}." in taken


def _create(engine: Engine, prefix: str, name: str, net: str) -> bool:
    subnet = ("--internal", "--subnet", f"{net}.0/24", "--gateway", f"{net}.1")
    done = engine.try_docker("network", "create", "--label", f"{LABEL}={prefix}", *subnet, f"{prefix}-{name}")
    if done.returncode and "overlaps" not in done.stderr:
        raise BedError(f"network {prefix}-{name}: {done.stderr.strip()}")
    if not done.returncode:
        _stop_forwarding(f"br-{done.stdout[:12]}")
    return not done.returncode


def _stop_forwarding(bridge: str) -> None:
    # The engine writes no firewall rules, so the kernel would route between the two networks.
    Path(f"/proc/sys/net/ipv4/conf/{bridge}/forwarding").write_text("0")
