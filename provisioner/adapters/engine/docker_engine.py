"""The Docker Engine of this machine, through its API."""

import io
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, Self

from provisioner.adapters.engine import stream as engine_stream
from provisioner.adapters.engine.base_image import BaseFacts, parse_base_facts, parse_measurement, unfit_base
from provisioner.adapters.engine.build_failure import build_failed
from provisioner.adapters.engine.stream import EngineError, ProgressUpdate
from provisioner.adapters.engine.trust import CERTS, install_ca
from provisioner.adapters.state.push_logins import PushLogin
from provisioner.domain.values.event import Event, OnEvent
from provisioner.domain.values.measured import Measurement
from provisioner.domain.values.problem import Problem, ProblemError
from provisioner.domain.values.reference import ImageReference

if TYPE_CHECKING:
    from docker import DockerClient

_TIMEOUT = 1800  # seconds; an engine sends nothing while it unpacks or commits a large layer
_MAX_FILE = 1 << 20  # bytes of a file that is read from an image
_PLAIN_HTTP = "a registry without TLS must be listed under insecure-registries in /etc/docker/daemon.json"
_LOCAL = "http+docker://localhost"  # the SDK's base URL for a unix socket


class PushAccess(NamedTuple):
    """How to push to a registry that takes pushes at another address than that of its images: that of `login`.

    `verify` raises ProblemError where the registry does not answer there with its own certificate.
    """

    login: PushLogin
    verify: Callable[[], None]


class DockerEngine:
    """Pulls, builds, tags and pushes images. Every method raises ProblemError.

    `authorities` maps the address of a registry to the file of its CA, `accesses` to its own way for pushes.
    """

    def __init__(
        self,
        client: "DockerClient",
        authorities: Mapping[str, Path],
        on_event: OnEvent,
        accesses: Mapping[str, PushAccess] | None = None,
        certs: Path = CERTS,
    ) -> None:
        """Use a connected client. `certs` is the folder in which the engine looks for CAs."""
        self._client = client
        self._authorities = authorities
        self._accesses = accesses or {}
        self._on_event = on_event
        self._certs = certs

    @classmethod
    def connect(
        cls, authorities: Mapping[str, Path], on_event: OnEvent, accesses: Mapping[str, PushAccess] | None = None
    ) -> Self:
        """Connect to the engine that DOCKER_HOST names, or to the local one. Raises ProblemError where none answers."""
        import docker  # noqa: PLC0415  (slow to import, and only this verb needs it)
        from docker.errors import DockerException  # noqa: PLC0415

        try:
            return cls(docker.from_env(timeout=_TIMEOUT), authorities, on_event, accesses)
        except DockerException as error:
            raise ProblemError(_no_engine(error)) from None

    def close(self) -> None:
        """Close the connection to the engine."""
        self._client.close()

    def platform(self) -> str:
        """Return the platform of images that run here without emulation, such as linux/amd64."""
        from docker.errors import DockerException  # noqa: PLC0415
        from requests.exceptions import RequestException  # noqa: PLC0415

        try:
            version = self._client.version()
        except (DockerException, RequestException) as error:
            raise ProblemError(_no_engine(error)) from None
        return f"{version['Os']}/{version['Arch']}"

    def digests(self, reference: ImageReference) -> tuple[str, ...] | None:
        """Return the digests under which the engine has pulled or pushed an image; None if it does not have it."""
        from docker.errors import ImageNotFound  # noqa: PLC0415

        with _engine_errors("pull", reference):
            try:
                names = self._client.images.get(_local_name(reference)).attrs.get("RepoDigests") or ()
            except ImageNotFound:
                return None
            return tuple(digest for name in names for _, at, digest in [name.partition("@")] if at)

    def pull(self, reference: ImageReference, size: int) -> None:
        """Pull an image by digest. `size` in bytes, for progress."""
        self._install_ca(reference)
        repository = f"{reference.registry}/{reference.repository}"
        with _engine_errors("pull", reference):
            messages = self._client.api.pull(repository, tag=reference.digest, stream=True, decode=True)
            self._report(f"pulling {reference}", engine_stream.transfer_progress(messages, size), "B")

    def base_facts(self, reference: str, script: str, seconds: int = 300) -> BaseFacts:
        """Run the Python `script` with the image's python3, for `seconds` at most, and parse its output."""
        try:
            return parse_base_facts(reference, self._run_python(reference, script, seconds))
        except EngineError as error:
            raise ProblemError(unfit_base(reference, str(error))) from None

    def measure(self, reference: str, script: str, seconds: int = 300) -> Measurement:
        """Run the Python `script` that reads torch, as `base_facts` does. Never raises: an image may lack python3."""
        try:
            return parse_measurement(self._run_python(reference, script, seconds))
        except EngineError as error:
            return Measurement(reason=str(error))

    def _run_python(self, reference: str, script: str, seconds: int) -> str:
        """Return what a Python script prints in an image. Raises EngineError where it fails or takes too long.

        The container is read-only, has no network, GPU or capability, and is removed in any case: nothing is known of
        the image yet.
        """
        from docker.errors import DockerException  # noqa: PLC0415
        from docker.types import LogConfig  # noqa: PLC0415
        from requests.exceptions import RequestException  # noqa: PLC0415

        container = None
        try:
            container = self._client.containers.create(
                reference,
                entrypoint=["python3", "-c", script],
                command=[],
                environment={"NVIDIA_VISIBLE_DEVICES": "void"},
                network_mode="none",
                read_only=True,
                tmpfs={"/tmp": "size=64m"},  # noqa: S108  (in the container)
                cap_drop=["ALL"],
                security_opt=["no-new-privileges"],
                pids_limit=256,
                mem_limit="4g",
                memswap_limit="4g",
                log_config=LogConfig(type="json-file", config={"max-size": "1m", "max-file": "1"}),
            )
            container.start()
            code = container.wait(timeout=seconds)["StatusCode"]
            if code:
                last = container.logs(stdout=False).decode(errors="replace")[-500:]
                raise EngineError(f"python3 ended with {code}: {last}")
            return str(container.logs(stderr=False), "utf-8", "replace")
        except (DockerException, RequestException) as error:
            raise EngineError(str(error)[-500:]) from None
        finally:
            if container is not None:
                with suppress(DockerException, RequestException):  # the first error is the one to report
                    container.remove(force=True, v=True)

    def build(
        self, context: Path, target: ImageReference, arguments: Mapping[str, str], labels: Mapping[str, str]
    ) -> None:
        """Build `target` from the Dockerfile in the directory `context`."""
        with _engine_errors("build", target):
            messages = self._client.api.build(
                path=str(context),
                tag=str(target),
                buildargs=dict(arguments),
                labels=dict(labels),
                network_mode="host",  # the build reaches package sources as this machine does
                rm=True,
                forcerm=True,
                use_config_proxy=True,
                decode=True,
            )
            self._report(f"building {target}", engine_stream.build_progress(messages), "steps")

    def read_file(self, reference: ImageReference, path: str) -> str:
        """Return a text file of an image, of 1 MiB at most. Nothing runs in the image for that."""
        with _engine_errors("build", reference):
            container = self._client.api.create_container(str(reference), entrypoint=["true"], network_disabled=True)
            try:
                parts, stat = self._client.api.get_archive(container["Id"], path)
                if stat["size"] > _MAX_FILE:
                    raise EngineError(f"{path} has {stat['size']} bytes")
                with tarfile.open(fileobj=io.BytesIO(b"".join(parts))) as archive:
                    file = archive.extractfile(archive.next() or path)
                    return "" if file is None else file.read().decode(errors="replace")
            finally:
                self._client.api.remove_container(container["Id"], force=True, v=True)

    def tag(self, reference: str, target: ImageReference) -> None:
        """Give an image of the engine the name `target`, also where that name is in use."""
        with _engine_errors("build", target):
            self._client.api.tag(reference, f"{target.registry}/{target.repository}", target.tag, force=True)

    def push(self, target: ImageReference) -> str:
        """Push an image by tag, and return the digest that the engine computed for it."""
        access = self._accesses.get(target.registry or "")
        return self._push(target) if access is None else self._push_by_login(target, access)

    def _push_by_login(self, target: ImageReference, access: PushAccess) -> str:
        from docker.errors import DockerException  # noqa: PLC0415
        from requests.exceptions import RequestException  # noqa: PLC0415

        # An engine pushes to the registry that an image's name begins with.
        login, there = access.login, target.model_copy(update={"registry": access.login.address})
        self.tag(str(target), there)
        try:
            access.verify()  # engines do not verify a registry on loopback, and would send the login to any program
            return self._push(there, login)
        finally:
            with suppress(DockerException, RequestException):  # a name that is left takes no disk space
                self._client.api.remove_image(str(there), noprune=True)

    def _push(self, target: ImageReference, login: PushLogin | None = None) -> str:
        self._install_ca(target)
        auth = None if login is None else {"username": login.user, "password": login.password}
        pushed: list[str] = []
        with _engine_errors("push" if login is None else "push by login", target):
            repository = f"{target.registry}/{target.repository}"
            messages = self._client.api.push(repository, tag=target.tag, stream=True, decode=True, auth_config=auth)
            noted = engine_stream.note_digest(messages, target.tag or "", pushed)
            self._report(f"pushing {target}", engine_stream.transfer_progress(noted, 0), "B")
            if not pushed:
                raise EngineError("it reported no digest of what it pushed")
        return pushed[-1]

    def _install_ca(self, reference: ImageReference) -> None:
        ca = self._authorities.get(reference.registry or "")
        if ca is not None and self._client.api.base_url == _LOCAL:
            install_ca(str(reference.registry), ca, self._certs)

    def _report(self, text: str, updates: Iterable[ProgressUpdate], unit: str) -> None:
        self._on_event(Event(phase="build", kind="started", text=text))
        for update in engine_stream.throttle(updates):
            self._on_event(Event(phase="build", kind="progress", unit=unit, **update._asdict()))
        self._on_event(Event(phase="build", kind="done", text=text))


def _local_name(reference: ImageReference) -> str:
    return reference.by_digest() if reference.digest else str(reference)


@contextmanager
def _engine_errors(
    action: Literal["pull", "build", "push", "push by login"], reference: ImageReference
) -> Iterator[None]:
    """Convert errors of the engine and of its connection to ProblemError."""
    from docker.errors import DockerException  # noqa: PLC0415
    from requests.exceptions import RequestException  # noqa: PLC0415

    try:
        yield
    except (EngineError, DockerException, RequestException) as error:
        raise ProblemError(_PROBLEMS[action](str(reference), str(error))) from None


def _no_engine(error: Exception) -> Problem:
    return Problem(
        "no_engine",
        f"no Docker Engine answers on this machine: {error}",
        "images are measured, built and pushed by the engine of the machine on which provision runs",
        "start it (`sudo systemctl start docker`), get permission to use it (root, or the group docker), or name"
        " another engine in DOCKER_HOST",
    )


def _pull_failed(reference: str, error: str) -> Problem:
    return Problem(
        "pull_failed",
        f"Docker could not pull {reference}: {error}",
        "the lab image is built from an image of the mirror",
        (
            f"`provision mirror check {reference}` shows which layers are missing, `docker info` and `df` the state of "
            f"this machine; {_PLAIN_HTTP}"
        ),
    )


def _push_failed(reference: str, error: str) -> Problem:
    return Problem(
        "push_failed",
        f"Docker could not push {reference}: {error}",
        "the nodes pull only from the lab's own registry",
        (
            f"run `docker login {reference.split('/', 1)[0]}` if it requires a user; set registry.ca in lab.yml if its "
            f"certificate is signed by a private CA; {_PLAIN_HTTP}"
        ),
    )


def _push_by_login_failed(reference: str, error: str) -> Problem:
    return Problem(
        "push_failed",
        f"Docker could not push {reference}: {error}",
        "the lab's registry takes pushes there, with the login of this control machine",
        (
            "run `provision prepare` on the lab; an engine of another machine (DOCKER_HOST), or one without root, "
            "does not reach 127.0.0.1 here: before, name this machine in the inventory's group `registry`"
        ),
    )


_PROBLEMS = {
    "pull": _pull_failed,
    "build": build_failed,
    "push": _push_failed,
    "push by login": _push_by_login_failed,
}
