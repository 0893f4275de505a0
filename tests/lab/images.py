"""Images of the bed: imported trees, and images that recipes build on top of them.

An image is built once and found by a label with the hash of its inputs.
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.lab import gpus, trees
from tests.lab.engine import Engine
from tests.lab.host import HERE, BedError, content_hash

RECIPES = HERE / "recipes"
INPUTS = "testbed.inputs"
NODE = "lab/node"
REGISTRY = "lab/registry"


@dataclass(frozen=True)
class Recipe:
    """An image to build: a folder of recipes/ with a Dockerfile, and further parts of its build context."""

    name: str
    folder: str
    base: str
    parts: Mapping[str, Path] = field(default_factory=dict)
    args: Mapping[str, str] = field(default_factory=dict)

    def inputs(self, base: str) -> str:
        arguments = [f"{key}={value}" for key, value in sorted(self.args.items())]
        return content_hash([RECIPES / self.folder, *self.parts.values()], base, *arguments)


def inputs_of(engine: Engine, names: Iterable[str]) -> dict[str, str]:
    """Return image -> hash of its inputs, for those of `names` that exist."""
    form = '{{range .RepoTags}}{{.}} {{end}}|{{index .Config.Labels "' + INPUTS + '"}}'
    lines = engine.try_docker("image", "inspect", "-f", form, *names).stdout.split("\n")
    found = [line.split("|") for line in lines if line]
    return {tag.removesuffix(":latest"): inputs for tags, inputs in found for tag in tags.split()}


def import_tree(engine: Engine, tree: trees.Tree) -> str:
    """Import the tree as the only layer of the image `lab/tree-NAME`; return this name."""
    folder, name = trees.build(engine.root, tree), f"lab/tree-{tree.name}"
    if inputs_of(engine, [name]).get(name) != folder.name:
        _import(engine, folder, name)
    return name


def _import(engine: Engine, folder: Path, name: str) -> None:
    with subprocess.Popen(["tar", "-C", folder, "-c", "."], stdout=subprocess.PIPE) as tar:
        command = ["docker", "import", "--change", f"LABEL {INPUTS}={folder.name}", "-", name]
        done = subprocess.run(command, env=engine.env(), stdin=tar.stdout, capture_output=True, text=True, check=False)
    if done.returncode or tar.returncode:
        raise BedError(f"docker import of {folder}: {done.stderr.strip()}")


def build(engine: Engine, recipes: Iterable[Recipe]) -> None:
    """Build the images whose inputs or base have changed; `recipes` lists a base before the images on it."""
    wanted = list(recipes)
    have = inputs_of(engine, {name for recipe in wanted for name in (recipe.name, recipe.base)})
    for recipe in wanted:
        inputs = recipe.inputs(have[recipe.base])
        if have.get(recipe.name) != inputs:
            _build(engine, recipe, inputs)
            have[recipe.name] = inputs


def _build(engine: Engine, recipe: Recipe, inputs: str) -> None:
    arguments = [word for key, value in recipe.args.items() for word in ("--build-arg", f"{key}={value}")]
    with tempfile.TemporaryDirectory() as context:
        shutil.copytree(RECIPES / recipe.folder, context, dirs_exist_ok=True)
        for name, part in recipe.parts.items():
            shutil.copytree(part, Path(context) / name, symlinks=True)
        where = ("--network", "host", "-t", recipe.name, context)
        engine.docker("build", "-q", "--force-rm", "--label", f"{INPUTS}={inputs}", *arguments, *where)


def make_small(engine: Engine, name: str, layers: int = 2) -> None:
    """Build an image of a few kilobytes with unique layers, for tests that transfer images and start none."""
    with tempfile.TemporaryDirectory() as context:
        lines = ["FROM scratch", *(f"COPY layer{number} /" for number in range(layers))]
        (Path(context) / "Dockerfile").write_text("\n".join(lines))
        for number in range(layers):
            (Path(context) / f"layer{number}").write_bytes(os.urandom(4096))
        engine.docker("build", "-q", "-t", name, context)


def prune(engine: Engine) -> None:
    """Remove dangling images older than 24 h; younger ones may belong to a running build of another worker."""
    engine.docker("image", "prune", "-f", "--filter", "until=24h")


def build_lab_images(engine: Engine) -> None:
    node, registry = import_tree(engine, trees.NODE), import_tree(engine, trees.REGISTRY)
    build(engine, [node_recipe(engine, NODE, node, containerd_images=False), Recipe(REGISTRY, "registry", registry)])


def node_recipe(engine: Engine, name: str, tree: str, *, containerd_images: bool) -> Recipe:
    """Return the recipe of a node on an imported tree, whose engine may use containerd's image store."""
    parts = gpus.parts(engine.root)
    stock = {f"gpu/{part}": parts / part for part in ("bin", "lib")}
    return Recipe(name, "node", tree, stock, {"TREE": tree, "CONTAINERD_IMAGES": str(containerd_images).lower()})
