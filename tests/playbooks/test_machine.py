from tests.playbooks.fake_engine import FakeEngine
from tests.playbooks.node_code import module_util

machine = module_util("docker.machine")


def test_image_digests_are_unique_and_skip_images_without_a_digest(engine: FakeEngine) -> None:
    """An engine 20.10 writes <none>@<none> for an image that was built and never pushed."""
    engine.images = {
        "1": {"RepoDigests": ["reg.lab/a@sha256:2", "mirror.lab/a@sha256:2"]},
        "2": {"RepoDigests": ["<none>@<none>"]},
        "3": {"RepoDigests": None},
        "4": {"RepoDigests": ["reg.lab/b@sha256:1"]},
    }
    assert machine.image_digests() == ["sha256:1", "sha256:2"]
