"""Bare nodes: a Debian with sshd and Python, and no engine until somebody installs one."""

from dataclasses import dataclass

from tests.lab import gpus, images
from tests.lab.engine import Engine
from tests.lab.host import locked
from tests.lab.images import RECIPES, Recipe
from tests.lab.trees import Tree

# What an installer leaves behind, and what the bed's own init calls.
PACKAGES = ("openssh-server", "sudo", "python3", "iproute2", "procps")


@dataclass(frozen=True)
class Release:
    """A Debian that nodes are bare of an engine on."""

    suite: str

    @property
    def tree(self) -> Tree:
        return Tree(f"{self.suite}-bare", PACKAGES, self.suite)

    @property
    def image(self) -> str:
        return f"lab/bare-{self.suite}"


TRIXIE, BOOKWORM = Release("trixie"), Release("bookworm")


def build_image(engine: Engine, release: Release) -> None:
    """Only for labs that want it, since few do."""
    with locked("setup"):
        tree, parts = images.import_tree(engine, release.tree), gpus.parts(engine.root)
        stock = {"gpu/bin": parts / "bin", "gpu/lib": parts / "lib", "node": RECIPES / "node"}
        images.build(engine, [Recipe(release.image, "bare", tree, stock, {"TREE": tree})])
