"""Reading what torch was compiled for in containers of a real engine."""

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from provisioner.adapters.engine.docker_engine import DockerEngine
from provisioner.adapters.resources import templates
from provisioner.domain.values.reference import ImageReference
from tests.lab import images, trees
from tests.lab.engine import Engine

pytestmark = pytest.mark.lab

SCRIPT = (templates() / "torch_facts.py").read_text(encoding="utf-8")
SITE = "/usr/local/lib/python3.13/dist-packages/torch"
VERSION = "__version__ = '2.8.0+cu128'\ncuda = '12.8'\n"
IMPORTABLE = """
from types import SimpleNamespace
from . import version
__version__ = version.__version__
_C = SimpleNamespace(_cuda_getArchFlags=lambda: "sm_80 sm_90a")
"""
# What a container may do, as a reason.
LOOK = """
import json, os
status = [line.split() for line in open("/proc/self/status") if line.startswith(("CapBnd", "CapEff", "NoNewPrivs"))]
written = [folder for folder in ("/", "/usr", "/root", "/tmp") if os.access(folder, os.W_OK)]
print(json.dumps({"unmeasured": json.dumps([status, sorted(os.listdir("/sys/class/net")), written])}))
"""


@pytest.fixture
def engine(testbed: Engine, monkeypatch: pytest.MonkeyPatch) -> Iterator[DockerEngine]:
    images.import_tree(testbed, trees.PYTHON)
    for name, value in testbed.client_env().items():
        monkeypatch.setenv(name, value)
    with closing(DockerEngine.connect({}, lambda _: None)) as connected:
        yield connected


def an_image(testbed: Engine, folder: Path, name: str, files: dict[str, str | bytes]) -> str:
    """Build an image with a torch of these files."""
    for path, content in {"version.py": VERSION, **files}.items():
        file = folder / "torch" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    (folder / "Dockerfile").write_text(f"FROM lab/tree-{trees.PYTHON.name}\nCOPY torch {SITE}\n")
    testbed.docker("build", "-q", "-t", f"provisioner-test/measured:{name}", folder)
    return f"provisioner-test/measured:{name}"


def test_torch_is_read_by_itself_or_else_in_its_library(engine: DockerEngine, testbed: Engine, tmp_path: Path) -> None:
    library = b"\0sm_75 sm_80 compute_80\0"
    wholes = an_image(testbed, tmp_path, "whole", {"__init__.py": IMPORTABLE, "lib/libtorch_python.so": library})
    (tmp_path / "torch/__init__.py").write_text("raise ImportError('libcudnn.so.9')\n")
    testbed.docker("build", "-q", "-t", "provisioner-test/measured:broken", tmp_path)
    for name, how, targets in (
        (wholes, "torch", ("sm_80", "sm_90a")),
        ("provisioner-test/measured:broken", "library", ("sm_75", "sm_80", "compute_80")),
    ):
        found = engine.measure(name, SCRIPT)
        assert found.measured is not None
        assert (found.how, found.measured.torch, found.measured.targets) == (how, "2.8.0+cu128", targets)
        testbed.docker("rmi", name)


def test_the_container_can_neither_write_nor_reach_anything(engine: DockerEngine) -> None:
    found = engine.measure(f"lab/tree-{trees.PYTHON.name}", LOOK)
    status, networks, written = json.loads(found.reason)
    assert [line for line in status if line[0] == "NoNewPrivs:"] == [["NoNewPrivs:", "1"]]
    assert {value for name, value in status if name != "NoNewPrivs:"} == {"0" * 16}
    assert (networks, written) == (["lo"], ["/tmp"])


def test_an_image_that_cannot_be_read_is_unmeasured_and_no_container_is_left(
    engine: DockerEngine, testbed: Engine
) -> None:
    tree, mark = f"lab/tree-{trees.PYTHON.name}", "time.sleep(600.75)"
    reasons = [
        engine.measure(tree, SCRIPT).reason,
        engine.measure("lab/registry", SCRIPT).reason,
        engine.measure("lab/none:at-all", SCRIPT).reason,
        engine.measure(tree, "print('x' * 3_000_000)").reason,
        engine.measure(tree, "import os; os.abort()").reason,
        engine.measure(tree, f"import time; {mark}", seconds=2).reason,
    ]
    words = ("it has no torch", "python3", "lab/none:at-all", "printed", "python3 ended with", "timed out")
    for reason, said in zip(reasons, words, strict=True):
        assert said in reason
        assert len(reason) <= 600
    assert mark not in testbed.docker("ps", "-a", "--no-trunc", "--format", "{{.Command}}")


def test_which_images_the_engine_has(engine: DockerEngine) -> None:
    assert engine.platform().startswith("linux/")
    assert engine.digests(ImageReference.parse(f"lab/tree-{trees.PYTHON.name}")) == ()
    assert engine.digests(ImageReference.parse("lab/none:at-all")) is None
