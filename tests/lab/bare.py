"""Bare nodes: a Debian with sshd and Python, and no engine until somebody installs one."""

from tests.lab import gpus, images
from tests.lab.engine import Engine
from tests.lab.host import locked
from tests.lab.images import RECIPES, Recipe
from tests.lab.trees import Tree

IMAGE = "lab/bare"
# What an installer leaves behind, and what the bed's own init calls.
TREE = Tree("bare", ("openssh-server", "sudo", "python3", "iproute2", "procps"))


def build_image(engine: Engine) -> None:
    """Only for labs that want it, since few do."""
    with locked("setup"):
        tree, parts = images.import_tree(engine, TREE), gpus.parts(engine.root)
        stock = {"gpu/bin": parts / "bin", "gpu/lib": parts / "lib", "node": RECIPES / "node"}
        images.build(engine, [Recipe(IMAGE, "bare", tree, stock)])
