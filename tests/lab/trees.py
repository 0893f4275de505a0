"""Root file systems, made once by debootstrap and apt in a chroot, and kept in the cache."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.lab.host import content_hash, run

# trixie's Docker Engine is 26.1 with compose v2 as a plugin; bookworm's are 20.10 and v1.
SUITE = "trixie"
NEXT_SUITE = "forky"
# Suites that debootstrap of bookworm does not know -> the suite of the script to use.
SCRIPTS = {NEXT_SUITE: "sid"}
NO_DOCS = "path-exclude=/usr/share/doc/*\npath-exclude=/usr/share/man/*\npath-exclude=/usr/share/locale/*\n"
APT = 'APT::Install-Recommends "false";\nAcquire::Languages "none";\n'
NO_DAEMONS = "#!/bin/sh\nexit 101\n"


@dataclass(frozen=True)
class Tree:
    """A minimal Debian with some packages on top."""

    name: str
    packages: Sequence[str] = ()
    suite: str = SUITE

    @property
    def base(self) -> "Tree":
        return BASE if self.suite == SUITE else Tree(f"{self.suite}-base", suite=self.suite)


BASE = Tree("base")
NODE = Tree(
    "node",
    (
        *("openssh-server", "openssh-client", "sudo", "python3", "procps", "curl", "iproute2", "iptables"),
        *("docker.io", "docker-cli", "docker-compose"),
    ),
)
# Debian's next release: Docker Engine 28, containerd 2. Few labs need it, so setup() does not build it.
NEXT_NODE = Tree("forky-node", NODE.packages, NEXT_SUITE)
REGISTRY = Tree("registry", ("docker-registry",))
# What both kinds of PyTorch image need to run JupyterLab later; pip and venv as the real ones have them.
PYTHON = Tree("python", ("python3", "python3-venv", "python3-pip", "python-is-python3"))


def build(root: Path, tree: Tree) -> Path:
    """The tree's folder; made where it is not there yet. Its name holds a hash of the recipe."""
    folder = root / "trees" / f"{tree.name}-{content_hash([Path(__file__)], tree.suite, *tree.packages)}"
    if not folder.exists():
        draft = folder.with_suffix(".draft")
        shutil.rmtree(draft, ignore_errors=True)
        draft.parent.mkdir(parents=True, exist_ok=True)
        _make(root, tree, draft)
        draft.rename(folder)
        _drop_older(folder, tree)
    return folder


def _drop_older(folder: Path, tree: Tree) -> None:
    for older in folder.parent.glob(f"{tree.name}-*"):
        if older != folder:
            shutil.rmtree(older)


def _make(root: Path, tree: Tree, folder: Path) -> None:
    if not tree.packages:
        # debootstrap knows its own mirror, also when the argument is empty; apt in a later build needs ca-certificates.
        script = ("", SCRIPTS[tree.suite]) if tree.suite in SCRIPTS else ()
        run("debootstrap", "--variant=minbase", "--include=ca-certificates", tree.suite, folder, *script)
        _configure(folder)
        return
    run("cp", "-a", build(root, tree.base), folder)
    _install(folder, tree.packages)


def _configure(folder: Path) -> None:
    (folder / "etc/dpkg/dpkg.cfg.d/no-docs").write_text(NO_DOCS)
    (folder / "etc/apt/apt.conf.d/99lab").write_text(APT)
    _strip(folder)


def _install(folder: Path, packages: Sequence[str]) -> None:
    with _usable(folder):
        quiet = ("chroot", folder, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-q")
        # The lists of a suite that is not released yet expire after a week, and a mirror may be older.
        run(*quiet, "-o", "Acquire::Check-Valid-Until=false", "update")
        run(*quiet, "install", "-y", *packages)
        run(*quiet, "clean")
    _strip(folder)


@contextmanager
def _usable(folder: Path) -> Iterator[None]:
    """A tree in which apt works: with /proc and name resolution, and without daemons that start on installation."""
    policy = folder / "usr/sbin/policy-rc.d"
    policy.write_text(NO_DAEMONS)
    policy.chmod(0o755)
    shutil.copy("/etc/resolv.conf", folder / "etc/resolv.conf")
    run("mount", "-t", "proc", "proc", folder / "proc")
    try:
        yield
    finally:
        run("umount", folder / "proc")
        policy.unlink()


def _strip(folder: Path) -> None:
    for pattern in (
        "var/lib/apt/lists/*",
        "var/cache/apt/*",
        "usr/share/doc/*",
        "usr/share/man/*",
        "usr/share/locale/*",
    ):
        for path in folder.glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for key in folder.glob("etc/ssh/ssh_host_*"):
        key.unlink()
