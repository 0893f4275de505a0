"""A real engine pushes to a managed registry by its login, and the image is read at the other address."""

import io
import tarfile
from contextlib import closing
from pathlib import Path

import pytest

from provisioner.adapters.engine.docker_engine import DockerEngine, PushAccess
from provisioner.adapters.registry.client import Registry
from provisioner.domain.values.problem import ProblemError
from provisioner.domain.values.reference import ImageReference
from tests.lab.engine import Engine
from tests.playbooks.registry_pair import registry_pair

pytestmark = pytest.mark.lab


def test_an_image_is_pushed_to_one_address_by_login_and_read_at_the_other(
    testbed: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in testbed.client_env().items():
        monkeypatch.setenv(name, value)
    with registry_pair(tmp_path) as pair, closing(DockerEngine.connect({}, lambda _: None)) as stranger:
        target = ImageReference(registry=pair.reader, repository="provisioner/lab", tag="t")
        verified: list[str] = []
        there = target.model_copy(update={"registry": pair.pusher})
        make_image(stranger, target)
        try:
            stranger.tag(str(target), there)
            with pytest.raises(ProblemError, match="push_failed"):
                stranger.push(there)
            access = PushAccess(pair.login, lambda: verified.append(pair.pusher))
            with closing(DockerEngine.connect({}, lambda _: None, {pair.reader: access})) as engine:
                digest = engine.push(target)
            assert verified == [pair.pusher]
            with Registry(pair.reader, ca=pair.ca) as registry:
                assert registry.exists(target) == digest
            names = testbed.docker("image", "ls", "--format", "{{.Repository}}")
            assert pair.pusher not in names, "the name for the push is removed"
        finally:
            testbed.docker("rmi", str(target))


def make_image(engine: DockerEngine, target: ImageReference) -> None:
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("file"))
    name = f"{target.registry}/{target.repository}"
    engine._client.api.import_image_from_data(layer.getvalue(), repository=name, tag=target.tag)
