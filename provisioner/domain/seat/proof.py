"""What a seat is entitled to, and the proof that a compose file contains exactly that and nothing more."""

import re
from collections.abc import Iterator
from itertools import zip_longest
from typing import Any

from pydantic import ValidationError

from provisioner.domain.lab.lock import LockedImage
from provisioner.domain.seat import compose_text
from provisioner.domain.seat.compose import ComposeProject, Service
from provisioner.domain.seat.fill import device_names, visible_devices
from provisioner.domain.seat.inside import INSIDE_FILES, inside_files, inside_variables
from provisioner.domain.seat.seat import SERVICES, Seat, ServiceName
from provisioner.domain.values.problem import Problem, ProblemError

CONTAINER_PORTS: dict[ServiceName, int] = {"jupyter": 8888, "ssh": 2222}
CONFIG = "/etc/provisioner"

_SHARED_FILES = (
    "authorized_keys",
    "health.py",
    "jupyter_server_config.py",
    "sshd_config",
    "start-ssh.py",
    "verify_keys",
)
# The notice to the users of a seat: a folder, because a container would not see that a mounted file was replaced.
NOTICE = f"{CONFIG}/notice"
_LAB_EXTENSION = f"{CONFIG}/labextensions/provisioner-notice"
_OWN_FILES: dict[ServiceName, dict[str, str]] = {
    "jupyter": {
        "notice.sh": "/etc/profile.d/provisioner-notice.sh",
        "notice-extension.json": f"{_LAB_EXTENSION}/package.json",
        "notice-extension.js": f"{_LAB_EXTENSION}/static/notice.js",
    },
    "ssh": {
        "notice.sh": "/etc/profile.d/provisioner-notice.sh",
        "provision-url": "/usr/local/bin/provision-url",
    },
}
# The token is in both: who may log in by SSH is the seat's user, and reads it there for Jupyter.
_IDENTITY: dict[ServiceName, tuple[str, ...]] = {"jupyter": ("token",), "ssh": ("ssh_host_ed25519_key", "token")}
_ENTRYPOINTS: dict[ServiceName, tuple[str, ...]] = {
    "jupyter": ("jupyter", "lab", f"--config={CONFIG}/jupyter_server_config.py"),
    "ssh": ("python3", "-I", f"{CONFIG}/start-ssh.py"),
}


def restart_policy(seat: Seat) -> str:
    """Return whether the engine starts the seat after a boot.

    Where a lease has to count first, the broker starts it; where something has to be mounted first, the recovery of the
    node does, or the broker.
    """
    has_to_wait = seat.kind or any(mount.mounted for mount in seat.options.mounts)
    return "no" if has_to_wait else "unless-stopped"


def container_home(seat: Seat) -> str:
    """Return the path of the home inside the containers."""
    return f"/home/{seat.user}"


def python_user_base(seat: Seat, image: LockedImage) -> str:
    """Return the folder of `pip install --user` in the container: one a base image, so that none outlives its torch."""
    return f"{container_home(seat)}/.provisioner/python/{_base_name(image)}"


def _base_name(image: LockedImage) -> str:
    """Return the name of what belongs to a base image in a home."""
    digest = image.base.rpartition("sha256:")[2][:12]
    return re.sub(r"[^A-Za-z0-9.+-]", "-", f"{image.torch or 'image'}-{digest}")


def variables(seat: Seat, image: LockedImage) -> dict[str, str]:
    """Return the variables of both services that follow from lab.yml, and the folders of caches of a base image."""
    caches = _cache_variables(seat, image) if image.format > 1 else {}
    return {**caches, **inside_variables(seat.options.inside)}


def _cache_variables(seat: Seat, image: LockedImage) -> dict[str, str]:
    """Return where caches are that would be wrong with another image.

    Matplotlib keeps the list of fonts under its own version alone, and torch keeps compiled extensions under the
    versions of Python and CUDA, not under its own. The caches of Triton, Numba and CUDA know all that they depend on.
    """
    cache = f"{container_home(seat)}/.provisioner/cache/{_base_name(image)}"
    return {"MPLCONFIGDIR": f"{cache}/matplotlib", "TORCH_EXTENSIONS_DIR": f"{cache}/torch_extensions"}


def mounts(seat: Seat, service: ServiceName) -> list[dict[str, Any]]:
    """Return the bind mounts of a service. The node adds `passwd` and `group`, and creates each identity once."""
    return [
        _bind(seat.home, container_home(seat), read_only=False),
        *(_bind(f"./{name}", f"/etc/{name}") for name in ("passwd", "group")),
        *(_bind(f"./{name}", f"{CONFIG}/{name}") for name in _SHARED_FILES),
        *(_bind(f"../../identity/{name}", f"{CONFIG}/{name}") for name in _IDENTITY[service]),
        _bind("../../notice", NOTICE),
        *(_bind(f"./{name}", target) for name, target in _OWN_FILES[service].items()),
        *(_bind(f"./{name}", INSIDE_FILES[name]) for name in inside_files(seat.options.inside)),
        *(
            _bind(mount.source, mount.target, read_only=mount.read_only, is_slave=mount.autofs)
            for mount in seat.options.mounts
        ),
    ]


def _bind(source: str, target: str, *, read_only: bool = True, is_slave: bool = False) -> dict[str, Any]:
    options = {"create_host_path": False, **({"propagation": "rslave"} if is_slave else {})}
    return {"type": "bind", "source": source, "target": target, "read_only": read_only, "bind": options}


def prove(text: str, seat: Seat, image: LockedImage) -> ComposeProject:
    """Parse the project in `text`. Raises ProblemError with every place that differs from what the seat may have."""
    try:
        project = ComposeProject.model_validate(compose_text.read(text))
    except ValidationError as error:
        raise ProblemError(_refused(_path(fault["loc"]), fault["msg"]) for fault in error.errors()) from None
    except ValueError as error:
        raise ProblemError(_refused("the file", str(error))) from None
    if problems := tuple(_refused(path, fault) for path, fault in _faults(project, seat, image)):
        raise ProblemError(problems)
    return project


def _faults(project: ComposeProject, seat: Seat, image: LockedImage) -> Iterator[tuple[str, str]]:
    yield from _differences("name", project.name, seat.name)
    yield from _differences("services", sorted(project.services), sorted(SERVICES))
    networks = {name: network.ipam.config[0].subnet for name, network in project.networks.items()}
    yield from _differences("networks", networks, {"seat": seat.subnet})
    for name, service in project.services.items():
        found = service.model_dump(mode="json")
        for key, expected in _expected_fields(seat, image, name).items():
            yield from _differences(f"services.{name}.{key}", found[key], expected)
        nofile = seat.limits.nofile and seat.limits.nofile.model_dump()
        yield from _differences(f"services.{name}.ulimits.nofile", found["ulimits"]["nofile"], nofile)
        yield from _environment_faults(name, service, seat, image)
        yield from _differences(f"services.{name}.healthcheck.test", found["healthcheck"]["test"], _health_test(name))
        if service.healthcheck.start_interval and not seat.start_interval:
            yield f"services.{name}.healthcheck.start_interval", "the engine of this node does not support it"


def _expected_fields(seat: Seat, image: LockedImage, name: ServiceName) -> dict[str, Any]:
    port, address = str(seat.ports[name]), seat.binds[name]
    return {
        "image": image.lab,
        "user": f"{seat.uid}:{seat.gid}",
        "working_dir": container_home(seat),
        "restart": restart_policy(seat),
        "entrypoint": list(_ENTRYPOINTS[name]),
        "pids_limit": seat.limits.pids,
        "mem_limit": seat.limits.memory,
        "memswap_limit": seat.limits.memory,
        "cpus": seat.limits.cpus,
        "shm_size": seat.limits.shm,
        "ports": [{"target": CONTAINER_PORTS[name], "published": port, "host_ip": address, "protocol": "tcp"}],
        "volumes": mounts(seat, name),
        "deploy": _deploy(seat),
        "labels": labels(seat, image, name),
    }


def labels(seat: Seat, image: LockedImage, service: ServiceName) -> dict[str, str]:
    """Return the container labels by which the node finds its seats."""
    return {
        "provisioner.lab": seat.lab,
        "provisioner.seat": seat.name,
        "provisioner.image": image.reference,
        "provisioner.service": service,
    }


def _deploy(seat: Seat) -> dict[str, Any] | None:
    names = device_names(seat.gpu_driver, seat.gpus)
    device = {"driver": seat.gpu_driver, "device_ids": names, "capabilities": ["gpu"]}
    return {"resources": {"reservations": {"devices": [device]}}} if seat.gpus else None


def _health_test(name: ServiceName) -> list[str]:
    return ["CMD", "python3", "-I", f"{CONFIG}/health.py", name]


def _environment_faults(
    name: ServiceName, service: Service, seat: Seat, image: LockedImage
) -> Iterator[tuple[str, str]]:
    """Check the variables that a seat depends on; the template of a lab may add others."""
    expected = {
        "HOME": container_home(seat),
        "PYTHONUSERBASE": python_user_base(seat, image),
        "NVIDIA_VISIBLE_DEVICES": visible_devices(seat.gpu_driver, seat.gpus),
        "JUPYTER_TOKEN_FILE": f"{CONFIG}/token" if name == "jupyter" else None,
        **variables(seat, image),
    }
    for key, value in expected.items():
        yield from _differences(f"services.{name}.environment.{key}", service.environment.get(key), value)


def _differences(path: str, found: Any, expected: Any) -> Iterator[tuple[str, str]]:
    match found, expected:
        case dict(), dict():
            for key in [*found, *(key for key in expected if key not in found)]:
                yield from _differences(f"{path}.{key}", found.get(key), expected.get(key))
        case list(), list():
            for index, (one, other) in enumerate(zip_longest(found, expected)):
                yield from _differences(f"{path}.{index}", one, other)
        case _ if found != expected:
            yield path, f"it is {found!r}, but must be {expected!r}"


def _path(loc: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in loc) or "the file"


def _refused(path: str, fault: str) -> Problem:
    return Problem(
        "compose_refused",
        f"{path}: {fault}",
        "a compose file may contain only what its seat is entitled to, whatever a template or a name contains",
        "correct that place in the lab's templates/compose.yaml.j2 (without one, the shipped template is used), "
        "or the value in lab.yml that it comes from",
    )
