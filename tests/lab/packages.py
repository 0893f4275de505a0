"""Package repositories for bare nodes, each signed with its own key and served in a lab's network.

debian/     Debian's packages of engine, compose and registry with their dependencies (flat)
nvidia/     a stand-in for NVIDIA's container toolkit under its real name (flat, like NVIDIA's repository)
docker-ce/  packages named as Docker's, with the contents of Debian's, and Docker's compose (dists/ and pool/)
other.asc   a key that signs none of these

They are built once: apt fetches Debian's packages in a tree of the suite, and they are indexed again.
"""

import hashlib
import shutil
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.lab import bare, trees
from tests.lab.bare import Release
from tests.lab.engine import COMPOSE, Engine
from tests.lab.host import content_hash, locked, run

PORT = 5203
KEYS = ("debian", "nvidia", "docker-ce", "other")


@dataclass(frozen=True)
class Stock:
    """The packages of a release.

    `docker_ce`: name of a package of Docker -> Debian's packages with its content, the first with the scripts, and its
    dependencies. Compose is the binary of Docker.
    """

    wanted: tuple[str, ...]
    docker_ce: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]]


ENGINE = {
    "docker-ce": (("docker.io",), ("containerd.io", "docker-ce-cli")),
    "containerd.io": (("containerd", "runc"), ()),
}
STOCKS = {
    bare.TRIXIE: Stock(
        ("docker.io", "docker-cli", "docker-compose", "docker-registry", "openssl"),
        {**ENGINE, "docker-ce-cli": (("docker-cli",), ())},
    ),
    # docker.io contains the client, and there is no compose v2.
    bare.BOOKWORM: Stock(("docker.io", "docker-registry", "openssl"), {**ENGINE, "docker-ce-cli": ((), ())}),
}
PLUGIN = "usr/libexec/docker/cli-plugins/docker-compose"
CTK = """#!/bin/sh
case $1 in
  --version) echo 'NVIDIA Container Toolkit CLI version 1.17.8' ;;
  *) exec /usr/lib/lab/gpu/bin/gpu_state.py "$@" ;;
esac
"""
CONTAINER_CLI = "#!/bin/sh\necho 'cli-version: 1.17.8'\n"


def publish(engine: Engine, release: Release) -> Path:
    """Return the folder to serve; build it if it does not exist."""
    inputs = content_hash([Path(__file__), Path(trees.__file__), Path(bare.__file__)], COMPOSE)
    folder = engine.root / "packages" / f"{release.suite}-{inputs}"
    with locked("packages"):
        if not folder.exists():
            draft = folder.with_suffix(".draft")
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir(parents=True)
            _publish(engine, release, draft)
            draft.rename(folder)
    return folder


def _publish(engine: Engine, release: Release, folder: Path) -> None:
    stock = STOCKS[release]
    with tempfile.TemporaryDirectory(prefix="lab-gpg-", dir="/tmp") as home:
        for name in KEYS:
            _make_key(Path(home), name, folder / f"{name}.asc")
        _fetch(trees.build(engine.root, release.tree), stock.wanted, folder / "debian")
        _index(folder / "debian", folder / "debian", Path(home), "debian", {})
        _toolkit(folder / "nvidia")
        _index(folder / "nvidia", folder / "nvidia", Path(home), "nvidia", {})
        docker_ce = folder / "docker-ce/linux/debian"
        _docker_ce(stock, folder / "debian", docker_ce / "pool")
        _compose(engine.compose, docker_ce / "pool")
        _index_suite(release.suite, docker_ce, Path(home))
        run("gpgconf", "--homedir", home, "--kill", "gpg-agent")


def _make_key(home: Path, name: str, path: Path) -> None:
    gpg = ("gpg", "--homedir", home, "--batch", "--quiet", "--pinentry-mode", "loopback", "--passphrase", "")
    run(*gpg, "--quick-generate-key", f"lab {name}", "ed25519", "sign", "never")
    path.write_text(run("gpg", "--homedir", home, "--batch", "--armor", "--export", f"lab {name}").stdout)


def _fetch(node: Path, wanted: Sequence[str], folder: Path) -> None:
    """Download these packages and all dependencies that the tree of a bare node lacks."""
    folder.mkdir()
    with tempfile.TemporaryDirectory(prefix="lab-tree-") as place:
        tree = Path(place) / "tree"
        run("cp", "-a", node, tree)
        with trees._usable(tree):
            apt = ("chroot", tree, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-q", "-y")
            run(*apt, "update")
            run(*apt, "install", "--download-only", *wanted)
        for package in (tree / "var/cache/apt/archives").glob("*.deb"):
            shutil.move(package, folder / package.name.replace("%3a", "."))
    _let_the_engine_start(next(folder.glob("docker.io_*.deb")))


def _let_the_engine_start(package: Path) -> None:
    """Remove from the init script the calls that raise limits: this machine may not permit them."""
    with tempfile.TemporaryDirectory(prefix="lab-deb-") as place:
        run("dpkg-deb", "-R", package, f"{place}/deb")
        run("sed", "-i", r"s/^\(\s*\)ulimit /\1: ulimit /", f"{place}/deb/etc/init.d/docker")
        run("dpkg-deb", "--root-owner-group", "-Zgzip", "-z1", "-b", f"{place}/deb", package)


def _toolkit(folder: Path) -> None:
    folder.mkdir()
    with tempfile.TemporaryDirectory(prefix="lab-deb-") as place:
        programs = Path(place) / "usr/bin"
        programs.mkdir(parents=True)
        hook = "nvidia-container-runtime-hook"
        (programs / hook).symlink_to(f"/usr/lib/lab/gpu/bin/{hook}")
        for name, script in (("nvidia-ctk", CTK), ("nvidia-container-cli", CONTAINER_CLI)):
            (programs / name).write_text(script)
            (programs / name).chmod(0o755)
        _write_control(Path(place), "nvidia-container-toolkit", "1.17.8-1", ())
        _pack(Path(place), folder, "nvidia-container-toolkit")


def _docker_ce(stock: Stock, debian: Path, pool: Path) -> None:
    pool.mkdir(parents=True)
    taken = {package for contents, _ in stock.docker_ce.values() for package in contents}
    for name, (contents, needs) in stock.docker_ce.items():
        _renamed([next(debian.glob(f"{package}_*.deb")) for package in contents], needs, taken, name, pool)


def _compose(binary: Path, pool: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="lab-deb-") as place:
        plugin = Path(place, PLUGIN)
        plugin.parent.mkdir(parents=True)
        shutil.copy(binary, plugin)
        plugin.chmod(0o755)
        _write_control(Path(place), "docker-compose-plugin", "2.40.3-1", ())
        _pack(Path(place), pool, "docker-compose-plugin")


def _index_suite(suite: str, folder: Path, home: Path) -> None:
    index = folder / "dists" / suite / "stable/binary-amd64"
    index.mkdir(parents=True)
    _index(folder, index, home, "docker-ce", {"Codename": suite, "Suite": suite, "Components": "stable"})


def _renamed(packages: Sequence[Path], needs: Sequence[str], taken: set[str], name: str, folder: Path) -> None:
    """Build one package with the content of several; its dependencies are theirs without those in `taken`."""
    listed = [run("dpkg-deb", "-f", package, "Depends").stdout.strip().split(", ") for package in packages]
    depends = [entry for entries in listed for entry in entries if entry and entry.split()[0] not in taken]
    with tempfile.TemporaryDirectory(prefix="lab-deb-") as place:
        for package in packages[1:]:
            run("dpkg-deb", "-x", package, place)
        for package in packages[:1]:
            first = Path(place) / "first"
            run("dpkg-deb", "-R", package, first)
            run("cp", "-aT", first, place)
            shutil.rmtree(first)
        _write_control(Path(place), name, "5:26.1.5-1", [*needs, *depends])
        _pack(Path(place), folder, name)


def _write_control(place: Path, name: str, version: str, depends: Sequence[str]) -> None:
    needs = f"Depends: {', '.join(depends)}\n" if depends else ""
    control = (
        f"Package: {name}\nVersion: {version}\nArchitecture: amd64\nMaintainer: the lab <lab@lab.example>\n{needs}"
    )
    (place / "DEBIAN").mkdir(exist_ok=True)
    (place / "DEBIAN/control").write_text(f"{control}Description: what a package of this name brings\n")


def _pack(place: Path, folder: Path, name: str) -> None:
    place.chmod(0o755)
    run("dpkg-deb", "--root-owner-group", "-Zgzip", "-z1", "-b", place, folder / f"{name}.deb")


def _index(folder: Path, index: Path, home: Path, key: str, more: Mapping[str, str]) -> None:
    """Write Packages to `index` and the signed InRelease to the folder of the suite, or without one to `folder`."""
    packages = index / "Packages"
    packages.write_text("\n".join(_entry(path, folder) for path in sorted(folder.rglob("*.deb"))))
    suite = folder / "dists" / more["Suite"] if more else folder
    digest = hashlib.sha256(packages.read_bytes()).hexdigest()
    fields = {"Date": formatdate(usegmt=True), "Architectures": "amd64", **more}
    head = "".join(f"{name}: {value}\n" for name, value in fields.items())
    release = f"{head}SHA256:\n {digest} {packages.stat().st_size} {packages.relative_to(suite)}\n"
    sign = ("gpg", "--homedir", home, "--batch", "--pinentry-mode", "loopback", "--passphrase", "")
    signed = run(*sign, "--local-user", f"lab {key}", "--clearsign", stdin=release)
    (suite / "InRelease").write_text(signed.stdout)


def _entry(package: Path, folder: Path) -> str:
    control = run("dpkg-deb", "-f", package).stdout.strip()
    digest = hashlib.sha256(package.read_bytes()).hexdigest()
    where = f"Filename: {package.relative_to(folder)}\nSize: {package.stat().st_size}\nSHA256: {digest}\n"
    return f"{control}\n{where}"


def configure(folder: Path, packages: Path, address: str) -> None:
    """Write the sources and keys for /etc/apt of a node: its distribution's packages, served at `address`."""
    for name in ("sources.list.d", "keyrings"):
        (folder / name).mkdir(parents=True)
    shutil.copy(packages / "debian.asc", folder / "keyrings/lab-debian.asc")
    signed = "Signed-By: /etc/apt/keyrings/lab-debian.asc\n"
    text = f"Types: deb\nURIs: http://{address}/debian\nSuites: /\n{signed}"
    (folder / "sources.list.d/debian.sources").write_text(text)


@dataclass
class Served:
    """A running server; `asked` holds every requested path in order."""

    address: str
    asked: list[str] = field(default_factory=list)


@contextmanager
def serving(folder: Path, host: str) -> Iterator[Served]:
    """Serve a folder on this machine's address in a lab's network, which only its nodes reach."""
    served = Served(f"{host}:{PORT}")
    with ThreadingHTTPServer((host, PORT), partial(_Handler, served, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield served
        finally:
            server.shutdown()
            thread.join()


# Below this folder of the server lie the same repositories with their lists, and without their packages.
LISTS_ONLY = "lists-only"


class _Handler(SimpleHTTPRequestHandler):
    def __init__(self, served: Served, *args: Any, **more: Any) -> None:
        self._served = served
        super().__init__(*args, **more)

    def translate_path(self, path: str) -> str:
        found, _, rest = path.partition(f"/{LISTS_ONLY}/")
        return super().translate_path(path if found or not rest or rest.endswith(".deb") else f"/{rest}")

    def log_message(self, *_: Any) -> None:
        self._served.asked.append(self.path)
