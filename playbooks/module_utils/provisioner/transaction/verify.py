"""Is a seat what it was promised to be? Each check asks from outside, as a person would."""

from __future__ import annotations

import http.client
import json
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any, Callable

from ansible.module_utils.provisioner.base.command import run
from ansible.module_utils.provisioner.base.problem import ProblemError
from ansible.module_utils.provisioner.base.progress import Report
from ansible.module_utils.provisioner.docker import engine
from ansible.module_utils.provisioner.docker.engine import client_environment
from ansible.module_utils.provisioner.seat.compose import SERVICES, Compose
from ansible.module_utils.provisioner.seat.identity import TOKEN, host_key, make_key
from ansible.module_utils.provisioner.seat.seat import Seat

GPU_SECONDS = 180  # the first import of torch reads gigabytes
SSH_SECONDS = 20
HTTP_SECONDS = 10
SETTLE_SECONDS = 15  # a port may be published a moment after the service behind it is healthy
PAUSE = 1.0


def verify(compose: Compose, number: int, order: dict[str, Any], report: Report) -> dict[str, Any]:
    """`checks` and `gpu` for the record. Raises ProblemError with the first check that does not pass."""
    seat, wanted = compose.seat, order["seat"]
    compose.wait_healthy(time.monotonic() + order["deadlines"]["healthy"], report)
    checks = {"image": check_layers(compose, order)}
    report("asking Jupyter")
    checks["jupyter"] = _retry_until_answer(lambda: check_jupyter(seat, wanted))
    report("logging in by SSH")
    checks["ssh"] = _retry_until_answer(lambda: check_ssh(seat, number, wanted))
    report("computing on the GPUs")
    seen = {service: check_gpus(compose, service, order) for service in SERVICES}
    checks["gpu"] = "; ".join(f"{service}: {found['detail']}" for service, found in seen.items())
    report("watching that it stays healthy")
    compose.stay_healthy(order["deadlines"]["min_healthy"])
    checks["healthy"] = f"stayed so for {order['deadlines']['min_healthy']} s"
    return {"checks": checks, "gpu": {name: seen["jupyter"][name] for name in ("method", "uuids", "detail")}}


def check_layers(compose: Compose, order: dict[str, Any]) -> str:
    """What the containers were made of, layer by layer: an engine may know another image by the name that was asked."""
    wanted = order["image"]["rootfs"]
    for service in SERVICES:
        made_of = engine.image(str((compose.container(service) or {}).get("Image"))) or {}
        layers = made_of.get("RootFS", {}).get("Layers", [])
        if wanted and layers != wanted:
            raise _fault(
                "rootfs_mismatch", f"{service} runs {len(layers)} layers that are not the {len(wanted)} locked"
            )
    return f"{len(wanted)} layers, as locked" if wanted else "the lock does not name its layers"


class NoAnswerError(ProblemError):
    """A fault that may pass in a moment; an answer that is wrong will not."""


def _retry_until_answer(check: Callable[[], str]) -> str:
    deadline = time.monotonic() + SETTLE_SECONDS
    while True:
        try:
            return check()
        except NoAnswerError:
            if time.monotonic() + PAUSE > deadline:
                raise
            time.sleep(PAUSE)


def check_jupyter(seat: Seat, wanted: dict[str, Any]) -> str:
    """Lets in who has the token, and nobody else."""
    where = (wanted["binds"]["jupyter"], wanted["ports"]["jupyter"])
    token = (seat.identity / TOKEN).read_text()
    known = _status(where, "/api/status", {"Authorization": f"token {token}"})
    unknown = _status(where, "/api/contents", {})
    if (known, unknown) != (200, 403):
        said = f"answers {known} with the token and {unknown} without; wanted: 200, 403"
        raise _fault("jupyter_fails", f"Jupyter at {where[0]}:{where[1]} {said}")
    return "answers 200 with the token, 403 without"


def _status(where: tuple[str, int], path: str, headers: dict[str, str]) -> int:
    connection = http.client.HTTPConnection(*where, timeout=HTTP_SECONDS)
    try:
        connection.request("GET", path, headers=headers)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        raise _fault("jupyter_fails", f"no answer from {where[0]}:{where[1]}: {error!r}", NoAnswerError) from None
    finally:
        connection.close()


def check_ssh(seat: Seat, number: int, wanted: dict[str, Any]) -> str:
    """A whole login, with a key that is good for this moment only; the server must show the seat's own host key."""
    door = seat.generation(number) / "verify_keys"
    folder = Path(tempfile.mkdtemp(prefix="verify-", dir=str(seat.folder)))
    try:
        make_key(folder / "key", "provisioner-verify")
        _rewrite(door, (folder / "key.pub").read_text())
        port, address = wanted["ports"]["ssh"], wanted["binds"]["ssh"]
        (folder / "known_hosts").write_text(f"[{address}]:{port} {host_key(seat)}\n")
        ran = run([*_ssh(folder), "-p", str(port), f"{wanted['user']}@{address}", "true"], SSH_SECONDS)
    finally:
        _rewrite(door, "")
        shutil.rmtree(str(folder), ignore_errors=True)
    if ran.code != 0:
        raise _fault("ssh_fails", f"no login by key at {address}:{port}: {ran.message}", NoAnswerError)
    return "lets in by key, with the seat's host key"


def clear_verify_keys(seat: Seat) -> None:
    """What a login that was killed has left: its key, and the file that lets it in."""
    for folder in seat.folder.glob("verify-*"):
        shutil.rmtree(str(folder), ignore_errors=True)
    for door in seat.generations.glob("*/verify_keys"):
        _rewrite(door, "")


def _ssh(folder: Path) -> list[str]:
    files = [f"UserKnownHostsFile={folder}/known_hosts", "GlobalKnownHostsFile=/dev/null", "IdentityAgent=none"]
    manners = ["BatchMode=yes", "StrictHostKeyChecking=yes", "IdentitiesOnly=yes", "ConnectTimeout=10"]
    options = [word for option in manners + files for word in ("-o", option)]
    return ["ssh", "-F", "none", "-i", f"{folder}/key", *options]


def _rewrite(path: Path, text: str) -> None:
    """In place: the container has this very file mounted, not its name."""
    with path.open("r+") as file:
        file.truncate()
        file.write(text)


def check_gpus(compose: Compose, service: str, order: dict[str, Any]) -> dict[str, Any]:
    """What the order's own check prints in the container: exactly the reserved GPUs, and they compute."""
    container = compose.container(service) or {"Id": "missing"}
    seat, wanted = order["seat"], sorted(order["seat"]["gpus"])
    user = f"{seat['uid']}:{seat['gid']}"
    argv = ["docker", "exec", "-i", "--user", user, container["Id"], "python3", "-"]
    ran = run(argv, GPU_SECONDS, text=order["files"]["gpu_check.py"], env=client_environment())
    found = _reading(ran.out)
    if found is None:
        raise _fault("gpu_fails", f"{service}: the GPU check said nothing that can be read: {ran.message}")
    if sorted(found["uuids"]) != wanted:
        shown = ", ".join(found["uuids"]) or "no GPU"
        raise _fault("gpu_fails", f"{service} sees {shown}; reserved: {', '.join(wanted) or 'none'}. {found['detail']}")
    if wanted and not found["ok"]:
        raise _fault("gpu_fails", f"{service}: {found['detail']}")
    return found


def _reading(text: str) -> dict[str, Any] | None:
    """The last line is the check's; a container may print what it likes before."""
    try:
        found = json.loads(text.strip().rpartition("\n")[2])
        uuids = [str(uuid) for uuid in found["uuids"]]
        return {
            "method": str(found["method"]),
            "uuids": uuids,
            "ok": found["ok"] is True,
            "detail": str(found["detail"]),
        }
    except (ValueError, KeyError, TypeError):
        return None


def _fault(code: str, what: str, kind: type[ProblemError] = ProblemError) -> ProblemError:
    return kind(
        code,
        what,
        "a seat is committed only when Jupyter, SSH and every reserved GPU work from outside",
        "failure.log beside the generation's compose.yaml has the containers' logs",
    )
