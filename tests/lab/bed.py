"""A lab: a mirror outside, a registry inside, nodes, and their Ansible inventory."""

import secrets
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypedDict, Unpack

import yaml

from tests.lab import gpus, networks, packages, pki
from tests.lab.bare import TRIXIE, Release
from tests.lab.engine import Engine, the_engine
from tests.lab.host import BedError, run
from tests.lab.kinds import DEBIAN13, Kind
from tests.lab.networks import LABEL, MIRROR_PORT, REGISTRY_PORT
from tests.lab.node import USER, Node
from tests.lab.registry import Auth, Registry

PARALLEL = 4


class Lab:
    """A lab; `prefix` names its parts on the outer engine, `net` is N of its networks 198.18.N.0/24 and N+1.

    `trust_registry=False` leaves the nodes without the CA of the lab's registry; with `auth` mirror and registry
    accept only that user. With `apt`, a folder of packages published for `release`, nodes are bare and install from it.
    Other nodes are of a `kind`, whose image is built.
    """

    mirror: Registry
    registry: Registry
    nodes: list[Node]
    gateway: str  # address of this machine in the lab

    def __init__(  # noqa: PLR0913  (all options of a lab)
        self,
        prefix: str,
        net: int | None = None,
        *,
        trust_registry: bool = True,
        auth: Auth | None = None,
        engine: Engine | None = None,
        apt: Path | None = None,
        release: Release = TRIXIE,
        kind: Kind = DEBIAN13,
    ) -> None:
        self.prefix = prefix
        self.engine = engine or the_engine()
        self._net = net
        self._trust_registry = trust_registry
        self._auth = auth
        self._apt = apt
        self._bare = release if apt else None
        self._kind = kind
        self.nodes = []

    @property
    def folder(self) -> Path:
        return self.engine.root / "run" / self.prefix

    @property
    def key(self) -> Path:
        """The private key for user `lab` on every node."""
        return self.folder / "id_ed25519"

    @property
    def known_hosts(self) -> Path:
        return self.folder / "known_hosts"

    @property
    def inventory(self) -> Path:
        return self.folder / "hosts.yml"

    @property
    def ca(self) -> Path:
        return pki.ca_certificate(self.engine.root)

    def up(self, profiles: Sequence[str], *, engines: bool = True) -> "Lab":
        """Start the lab and wait for all parts; one node for each profile (a name from profiles/, or its text).

        With `engines=False` nodes have only sshd, for tests of scale.
        """
        if self.folder.exists():
            raise BedError(f"lab {self.prefix} is already up; `python -m tests.lab down {self.prefix}` removes it")
        self.folder.mkdir(parents=True)
        addresses = networks.claim(self.engine, self.prefix, self._net)
        self.gateway = addresses.gateway
        make_key(self.key)
        self.mirror = self._registry("mirror", addresses.mirror, MIRROR_PORT)
        self.registry = self._registry("registry", addresses.registry, REGISTRY_PORT)
        self.nodes = [self._node(index, addresses.node(index), has_engine=engines) for index in range(len(profiles))]
        self._start_all(profiles)
        self.known_hosts.write_text("".join(f"{node.address} {node.host_key()}\n" for node in self.nodes))
        self.inventory.write_text(self.inventory_text())
        return self

    def _start_all(self, profiles: Sequence[str]) -> None:
        with ThreadPoolExecutor(PARALLEL) as pool:
            starts = [pool.submit(self._start, self.mirror, "wan"), pool.submit(self._start, self.registry, "lab")]
            starts += [pool.submit(self._start_node, *pair) for pair in zip(self.nodes, profiles, strict=True)]
        for start in starts:
            start.result()

    def _registry(self, name: str, ip: str, port: int) -> Registry:
        return Registry(self.engine, f"{self.prefix}-{name}", ip, port, self.folder / name, self._auth)

    def _node(self, index: int, address: str, *, has_engine: bool) -> Node:
        name = f"node{index + 1}"
        folder, has_engine = self.folder / name, has_engine and self._bare is None
        return Node(self.engine, self.prefix, name, address, folder, has_engine, self._bare, kind=self._kind)

    def _start(self, registry: Registry, network: str) -> None:
        registry.create(self.prefix, f"{self.prefix}-{network}")
        registry.wait()

    def _start_node(self, node: Node, profile: str) -> None:
        node.folder.mkdir()
        make_key(node.folder / "ssh_host_ed25519_key")
        shutil.copy(self.key.with_suffix(".pub"), node.folder / "authorized_keys")
        (node.folder / "gpu.conf").write_text(profile if "\n" in profile else gpus.profile_text(profile))
        if self._trust_registry:
            trusted = node.folder / "certs.d" / self.registry.address
            trusted.mkdir(parents=True)
            shutil.copy(self.ca, trusted / "ca.crt")
        if self._apt is not None:
            packages.configure(node.folder / "apt", self._apt, f"{self.gateway}:{packages.PORT}")
        node.create()
        node.wait()

    def node(self, name: str) -> Node:
        return next(node for node in self.nodes if node.name == name)

    def inventory_text(self) -> str:
        """Return an Ansible inventory in YAML; host keys are checked against the nodes' real keys."""
        variables = {
            "ansible_user": USER,
            "ansible_ssh_private_key_file": str(self.key),
            "ansible_ssh_common_args": f"-o UserKnownHostsFile={self.known_hosts}",
            "ansible_become": True,
            "ansible_python_interpreter": "/usr/bin/python3",
        }
        hosts = {node.name: {"ansible_host": node.address} for node in self.nodes}
        return yaml.safe_dump({"nodes": {"hosts": hosts, "vars": variables}}, sort_keys=False)

    def down(self) -> None:
        """Remove everything with this lab's label, and its folder. Without any of these it does nothing."""
        for kind, remove in (("container", ("rm", "-f", "-v")), ("volume", ("rm",)), ("network", ("rm",))):
            everything = ("-a",) if kind == "container" else ()
            found = self.engine.docker(kind, "ls", "-q", *everything, "--filter", f"label={LABEL}={self.prefix}")
            if found:
                self.engine.docker(kind, *remove, *found.split())
        shutil.rmtree(self.folder, ignore_errors=True)


class LabOptions(TypedDict, total=False):
    """Options of a lab; see Lab."""

    trust_registry: bool
    auth: Auth | None
    apt: Path | None
    release: Release
    kind: Kind


@contextmanager
def running_lab(
    engine: Engine, profiles: Sequence[str], *, engines: bool = True, **options: Unpack[LabOptions]
) -> Iterator[Lab]:
    """Start a lab with a unique name, because several test runs may share the machine; remove it at the end."""
    lab = Lab(f"t{secrets.token_hex(3)}", engine=engine, **options)
    try:
        yield lab.up(profiles, engines=engines)
    finally:
        lab.down()


@contextmanager
def bare_lab(engine: Engine, stock: Path, profiles: Sequence[str], *, release: Release = TRIXIE) -> Iterator[Lab]:
    """Start nodes of `release` without an engine, and serve them the packages of the folder `stock`."""
    with (
        running_lab(engine, profiles, trust_registry=False, apt=stock, release=release) as lab,
        packages.serving(stock, lab.gateway),
    ):
        yield lab


def make_key(path: Path) -> None:
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", path.parent.name, "-f", path)
