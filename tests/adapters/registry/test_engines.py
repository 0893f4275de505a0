"""Answers of registries in the wild: a check calls an image complete where a real engine pulls it, and only there."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from provisioner.adapters.registry.client import Registry
from provisioner.domain.values.reference import ImageReference
from tests.adapters.registry.engine_shapes import LOGIN, SHAPES, Shape
from tests.adapters.registry.fault_table import finding_of, group
from tests.adapters.registry.faulty_servers import AMD64, FAIL_FAST
from tests.adapters.registry.made_image import digest_of
from tests.adapters.registry.own_engine import OwnEngine, own_engine
from tests.adapters.registry.scripted_registry import ScriptedRegistry, served
from tests.lab.host import install_missing_programs

REPOSITORY, TAG = "pytorch/pytorch", "2.8.0-cuda12.8-cudnn9-runtime"
ROWS = {row.fault: row for row in group("shapes").rows}


@contextmanager
def serving(name: str, shape: Shape) -> Iterator[tuple[str, str]]:
    """Yield the host of a registry of this shape, and the digest of its image."""
    image = shape.image(name)
    script = shape.script(image)
    registry = ScriptedRegistry(*([] if script is None else [script]))
    registry.put(REPOSITORY, TAG, image)
    with served(registry):
        yield registry.host, digest_of(image.body)


def write_config(folder: Path, host: str, shape: Shape) -> Path:
    """Write the client configuration of Docker, with a login where the shape has one."""
    auths = {host: {"auth": LOGIN.removeprefix("Basic ")}} if shape.login else {}
    (folder / "config.json").write_text(json.dumps({"auths": auths}))
    return folder


def test_fault_table_has_each_shape() -> None:
    assert list(SHAPES) == list(ROWS)


@pytest.mark.parametrize("name", SHAPES)
def test_check_reports_each_shape(tmp_path: Path, name: str) -> None:
    shape = SHAPES[name]
    with serving(name, shape) as (host, _):
        environment = {"DOCKER_CONFIG": str(write_config(tmp_path, host, shape))}
        with Registry(host, plain_http=True, policy=FAIL_FAST, environment=environment) as mirror:
            report = mirror.check([ImageReference(repository=REPOSITORY, tag=TAG)], AMD64)[0]
    assert finding_of(report) == ROWS[name].expected


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnEngine]:
    install_missing_programs()
    with own_engine(tmp_path_factory.mktemp("engine")) as running:
        yield running


@pytest.mark.lab
@pytest.mark.parametrize("name", SHAPES)
def test_an_engine_pulls_exactly_what_is_called_complete(engine: OwnEngine, tmp_path: Path, name: str) -> None:
    """By digest, as nodes pull what a lock pins."""
    shape, row = SHAPES[name], ROWS[name]
    with serving(name, shape) as (host, digest):
        reference = f"{host}/{REPOSITORY}@{digest}"
        config = write_config(tmp_path, host, shape)
        assert engine.docker_pulls(reference, config) == (row.pull and not row.only_containerd)
        if row.only_containerd:
            assert engine.containerd_pulls(reference, "u:p" if shape.login else None)
