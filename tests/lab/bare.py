"""Bare nodes: a Debian with sshd and Python, without an engine."""

from dataclasses import dataclass

from tests.lab import gpus, images
from tests.lab.engine import Engine
from tests.lab.host import locked
from tests.lab.images import RECIPES, Recipe
from tests.lab.trees import Tree

# What an installer sets up, and what the init of the bed calls.
PACKAGES = ("openssh-server", "sudo", "python3", "iproute2", "procps")


@dataclass(frozen=True)
class Release:
    """A release of Debian for bare nodes."""

    suite: str

    @property
    def tree(self) -> Tree:
        return Tree(f"{self.suite}-bare", PACKAGES, self.suite)

    @property
    def image(self) -> str:
        return f"lab/bare-{self.suite}"


TRIXIE, BOOKWORM = Release("trixie"), Release("bookworm")


def build_image(engine: Engine, release: Release) -> None:
    """Build the image of bare nodes; few labs need it, so setup() does not."""
    with locked("setup"):
        tree, parts = images.import_tree(engine, release.tree), gpus.parts(engine.root)
        stock = {"gpu/bin": parts / "bin", "gpu/lib": parts / "lib", "node": RECIPES / "node"}
        images.build(engine, [Recipe(release.image, "bare", tree, stock, {"TREE": tree})])
