"""Set-up steps before a lab can start; a step that is already done does nothing."""

import time
from collections.abc import Callable

from tests.lab import gpus, images, networks, pki, tags, trees
from tests.lab.engine import Engine, the_engine
from tests.lab.host import install_missing_programs, locked, registry_program, require_root

Report = Callable[[str], None]

ALL_TREES = (trees.BASE, trees.NODE, trees.REGISTRY, trees.PYTHON)


def setup(report: Report = lambda _: None) -> Engine:
    """Make the machine ready for labs and report the seconds of each step; return the running outer engine."""
    require_root()
    engine = the_engine()
    with locked("setup"):
        for name, work in _steps(engine):
            started = time.monotonic()
            work()
            report(f"{name:<28} {time.monotonic() - started:6.1f} s")
    return engine


def _steps(engine: Engine) -> list[tuple[str, Callable[[], object]]]:
    return [
        ("programs", install_missing_programs),
        ("a registry for loopback", registry_program),
        ("certificate authority", lambda: pki.make_ca(engine.root)),
        ("stand-ins for NVIDIA's parts", lambda: gpus.build_parts(engine.root)),
        ("compose plugin", engine.install_compose),
        ("engine", engine.start),
        ("route", networks.keep_packets_in),
        ("bridges", networks.let_bridges_pass),
        *((f"tree {tree.name}", lambda tree=tree: trees.build(engine.root, tree)) for tree in ALL_TREES),
        ("images of nodes, registries", lambda: images.build_lab_images(engine)),
        ("images of PyTorch", lambda: tags.build_demo_images(engine)),
        ("prune", lambda: images.prune(engine)),
    ]
