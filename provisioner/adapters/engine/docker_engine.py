"""This machine's Docker Engine, through its own API."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Self

from provisioner.adapters.engine import stream as engine_stream
from provisioner.adapters.engine.base_image import BaseFacts, read, unfit
from provisioner.adapters.engine.stream import EngineSaid, News
from provisioner.adapters.engine.trust import CERTS, trust
from provisioner.domain.values.event import Event, OnEvent
from provisioner.domain.values.problem import Problem, ProblemError
from provisioner.domain.values.reference import ImageReference

if TYPE_CHECKING:
    from docker import DockerClient

_SILENCE = 1800  # seconds: an engine says nothing while it unpacks or commits a large layer
_PLAIN_HTTP = "a registry without TLS must stand in insecure-registries of /etc/docker/daemon.json"
_LOCAL = "http+docker://localhost"  # how the SDK writes a unix socket


class DockerEngine:
    """`authorities` maps a registry's address to the file of its CA. Every method raises ProblemError."""

    def __init__(
        self, client: "DockerClient", authorities: Mapping[str, Path], on_event: OnEvent, certs: Path = CERTS
    ) -> None:
        self._client = client
        self._authorities = authorities
        self._on_event = on_event
        self._certs = certs

    @classmethod
    def connect(cls, authorities: Mapping[str, Path], on_event: OnEvent) -> Self:
        """The engine that DOCKER_HOST names, or the local one. Raises ProblemError where none answers."""
        import docker  # noqa: PLC0415  (slow to import, and only this verb needs it)
        from docker.errors import DockerException  # noqa: PLC0415

        try:
            return cls(docker.from_env(timeout=_SILENCE), authorities, on_event)
        except DockerException as error:
            raise ProblemError(_no_engine(error)) from None

    def close(self) -> None:
        self._client.close()

    def pull(self, reference: ImageReference, size: int) -> None:
        """By digest. `size` in bytes."""
        self._trust(reference)
        repository = f"{reference.registry}/{reference.repository}"
        with _told("pull", reference):
            said = self._client.api.pull(repository, tag=reference.digest, stream=True, decode=True)
            self._tell(f"pulling {reference}", engine_stream.transfer(said, size), "B")

    def base_facts(self, reference: str, script: str) -> BaseFacts:
        """Runs `script` with the image's own python3: without network, and without its GPUs."""
        from docker.errors import APIError, ContainerError  # noqa: PLC0415

        try:
            output = self._client.containers.run(
                reference,
                entrypoint=["python3", "-c", script],
                command=[],
                environment={"NVIDIA_VISIBLE_DEVICES": "void"},
                network_mode="none",
                remove=True,
            )
        except (APIError, ContainerError) as error:
            raise ProblemError(unfit(reference, str(error)[-500:])) from None
        return read(reference, output.decode())

    def build(
        self, context: Path, target: ImageReference, arguments: Mapping[str, str], labels: Mapping[str, str]
    ) -> None:
        with _told("build", target):
            said = self._client.api.build(
                path=str(context),
                tag=str(target),
                buildargs=dict(arguments),
                labels=dict(labels),
                network_mode="host",  # as this machine reaches package sources, the build does
                rm=True,
                forcerm=True,
                use_config_proxy=True,
                decode=True,
            )
            self._tell(f"building {target}", engine_stream.build(said), "steps")

    def tag(self, reference: str, target: ImageReference) -> None:
        with _told("build", target):
            self._client.api.tag(reference, f"{target.registry}/{target.repository}", target.tag, force=True)

    def push(self, target: ImageReference) -> None:
        self._trust(target)
        with _told("push", target):
            repository = f"{target.registry}/{target.repository}"
            said = self._client.api.push(repository, tag=target.tag, stream=True, decode=True)
            self._tell(f"pushing {target}", engine_stream.transfer(said, 0), "B")

    def _trust(self, reference: ImageReference) -> None:
        ca = self._authorities.get(reference.registry or "")
        if ca is not None and self._client.api.base_url == _LOCAL:
            trust(str(reference.registry), ca, self._certs)

    def _tell(self, text: str, news: Iterable[News], unit: str) -> None:
        self._on_event(Event(phase="build", kind="started", text=text))
        for piece in engine_stream.spaced(news):
            progress = {"text": piece.text, "done": piece.done, "total": piece.total, "unit": unit}
            self._on_event(Event(phase="build", kind="progress", **progress))
        self._on_event(Event(phase="build", kind="done", text=text))


@contextmanager
def _told(act: str, reference: ImageReference) -> Iterator[None]:
    from docker.errors import DockerException  # noqa: PLC0415
    from requests.exceptions import RequestException  # noqa: PLC0415

    try:
        yield
    except (EngineSaid, DockerException, RequestException) as error:
        raise ProblemError(_FAILED[act](str(reference), str(error))) from None


def _pull_failed(reference: str, said: str) -> Problem:
    return Problem(
        "pull_failed",
        f"Docker could not pull {reference}: {said}",
        "the lab image is made from the mirror's own image",
        (
            f"`provision mirror check {reference}` says what of it cannot be had, `docker info` and `df` what this "
            f"machine lacks; {_PLAIN_HTTP}"
        ),
    )


def _build_failed(reference: str, said: str) -> Problem:
    return Problem(
        "build_failed",
        f"Docker could not build {reference}; its last lines:\n{said}",
        "seats need Jupyter and sshd beside the base's torch",
        (
            "where a package source cannot be reached, name one that can in image.apt_mirror; "
            "or put a complete image on the mirror and set image.complete: true"
        ),
    )


def _push_failed(reference: str, said: str) -> Problem:
    return Problem(
        "push_failed",
        f"Docker could not push {reference}: {said}",
        "the nodes pull from the lab's own registry alone",
        (
            f"`docker login {reference.split('/', 1)[0]}` where it asks for a user; registry.ca in lab.yml where its "
            f"certificate is the campus's own; {_PLAIN_HTTP}"
        ),
    )


_FAILED: Mapping[str, Callable[[str, str], Problem]] = {
    "pull": _pull_failed,
    "build": _build_failed,
    "push": _push_failed,
}


def _no_engine(error: Exception) -> Problem:
    return Problem(
        "no_engine",
        f"no Docker Engine answers on this machine: {error}",
        "the lab image is built and pushed by the engine of the machine that runs `provision lock`",
        (
            "start it (`sudo systemctl start docker`), be allowed to use it (root, or the group docker), "
            "or name another one in DOCKER_HOST"
        ),
    )
