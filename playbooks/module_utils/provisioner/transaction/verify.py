"""Verification of a started seat, from outside as far as possible.

What a user has put into the home must not decide whether a node can be upgraded. The checks read nothing of it, but
Jupyter and logins do: what fails is tried once more with an empty home, and if it works then, the home is at fault.

A self-service seat starts while its person waits, and all of the image was tried when its environment was published: it
is asked for its GPUs, without a program that computes, a login, or a time in which it has to stay healthy.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import socket
import tempfile
import time
from pathlib import Path
from typing import Any, Callable, ContextManager, Iterable, TypeVar

from ansible.module_utils.provisioner.base.command import CommandResult, run, run_in_child
from ansible.module_utils.provisioner.base.problem import ProblemError
from ansible.module_utils.provisioner.base.progress import Report
from ansible.module_utils.provisioner.docker import engine
from ansible.module_utils.provisioner.docker.engine import client_environment
from ansible.module_utils.provisioner.gpu.proof import GpuChoice, chosen_gpus, record_proof
from ansible.module_utils.provisioner.mount.check import mounts_of
from ansible.module_utils.provisioner.mount.inside import check_seen, look_inside
from ansible.module_utils.provisioner.seat.compose import SERVICES, Compose, exec_python
from ansible.module_utils.provisioner.seat.identity import TOKEN, host_key, make_key
from ansible.module_utils.provisioner.seat.seat import SELF_SERVICE, Seat

Result = TypeVar("Result")

GPU_SECONDS = 180  # the first import of torch reads gigabytes
SSH_SECONDS = 20
SHELL_SECONDS = 10
HTTP_SECONDS = 10
SETTLE_SECONDS = 15  # a port may be published a moment after the service behind it is healthy
PAUSE = 1.0
MAY_BE_HOME = ("not_healthy", "jupyter_fails", "ssh_fails", "gpu_fails")
LIST_SECONDS = 10
BANNER_BYTES = 64
PUBLISHED = "the image was tried on this node when its environment was published"


def verify(compose: Compose, number: int, order: dict[str, Any], report: Report) -> dict[str, Any]:
    """Run all checks and return `checks`, `gpu` and `problems` of the record: those of `verify_gpus` and of mounts.

    Raises ProblemError at the first failed check.
    """
    seat, wanted, is_brief = compose.seat, order["seat"], _is_brief(order)
    compose.wait_healthy(time.monotonic() + order["deadlines"]["healthy"], report)
    checks = {"image": check_layers(compose, order)}
    report("checking Jupyter")
    checks["jupyter"] = _retry_until_answer(lambda: check_jupyter(seat, wanted))
    report("checking the SSH login")
    checks["ssh"] = _retry_until_answer(lambda: check_banner(wanted) if is_brief else check_ssh(seat, number, wanted))
    report("checking the GPUs")
    gpus = verify_gpus(compose, order)
    checks["gpu"] = gpus["detail"]
    noticed = [*gpus["problems"], *check_mounts_inside(compose, order)]
    if not is_brief:
        report("checking that the containers stay healthy")
        compose.stay_healthy(order["deadlines"]["min_healthy"])
        checks["healthy"] = f"healthy for {order['deadlines']['min_healthy']} s"
    return {"checks": checks, "gpu": gpus["gpu"], "problems": noticed}


def check_mounts_inside(compose: Compose, order: dict[str, Any]) -> list[dict[str, str]]:
    """Return what is wrong with the mounts as the person of the seat sees them, see `look_inside`.

    Raises ProblemError as `check_seen` does.
    """
    mounts, seat = mounts_of(order), order["seat"]
    if not mounts:
        return []
    container = compose.container("jupyter") or {"Id": "missing", "State": {"Pid": 0}}
    check_seen(container["State"]["Pid"], mounts, seat["name"])
    argv = exec_python(container["Id"], f"{seat['uid']}:{seat['gid']}")
    return look_inside(argv, mounts, seat["name"])


def _is_brief(order: dict[str, Any]) -> bool:
    return bool(order["seat"].get("kind") == SELF_SERVICE)


def verify_despite_home(compose: Compose, number: int, order: dict[str, Any], report: Report) -> dict[str, Any]:
    """Verify a started generation as `verify` does, if need be with an empty home.

    Return what `verify` returns, and in `problems` also `home_fault` when it works with an empty home only; its
    containers have their home again then. Raises ProblemError, that of the first attempt, when it works with neither.
    """
    verified, noticed = _despite_home(
        compose,
        number,
        order,
        lambda: verify(compose, number, order, report),
        lambda: report("checking once more, with an empty home"),
    )
    problems = [*verified.get("problems", []), *noticed]
    return {**verified, "problems": problems} if problems else verified


def wait_despite_home(compose: Compose, number: int, order: dict[str, Any], report: Report) -> list[dict[str, str]]:
    """Wait until a started generation is healthy, if need be with an empty home.

    Return the problem `home_fault` in that case, else nothing. Raises ProblemError when it is healthy with neither.
    """
    seconds = order["deadlines"]["healthy"]
    return _despite_home(compose, number, order, lambda: compose.wait_healthy(time.monotonic() + seconds, report))[1]


def _despite_home(
    compose: Compose,
    number: int,
    order: dict[str, Any],
    check: Callable[[], Result],
    before_retry: Callable[[], None] = lambda: None,
) -> tuple[Result, list[dict[str, str]]]:
    """Return the result of `check`, and the problem `home_fault` when it succeeds with an empty home only.

    The home is at fault when a second check with it fails, too: the containers may have been killed during the first.
    """
    seat = order["seat"]
    try:
        return check(), []
    except ProblemError as fault:
        if not _may_be_home(fault, seat):
            raise
        before_retry()
        try:
            with compose.empty_home(number, seat):
                found = check()
        except ProblemError:
            raise fault from None
    try:
        return check(), []
    except ProblemError as fault:
        if fault.problem["code"] not in MAY_BE_HOME:
            raise
        return found, [_home_fault(seat, fault)]


def _may_be_home(fault: ProblemError, seat: dict[str, Any]) -> bool:
    if fault.problem["code"] not in MAY_BE_HOME:
        return False
    try:
        return bool(run_in_child(lambda: os.listdir(seat["home"])[:1], LIST_SECONDS))  # noqa: PTH208  (names only)
    except (TimeoutError, ChildProcessError):
        return True


def _home_fault(seat: dict[str, Any], fault: ProblemError) -> dict[str, str]:
    return ProblemError(
        "home_fault",
        f"{seat['name']} works with an empty home, but not with {seat['home']}: {fault.problem['what']}",
        "Jupyter and logins read files of the home. They belong to its user, so the node does not count as failed",
        f"ask {seat['user']} to move away what was changed last in ~/.jupyter, ~/.ipython, ~/.local or the start files"
        " of the shell; nothing in the home was changed. If the seat is not healthy after that, on the node: docker"
        f" compose -p {seat['name']} restart",
    ).problem


def check_layers(compose: Compose, order: dict[str, Any]) -> str:
    """Compare the layers of the containers' images with the lock; the engine may have another image of this name."""
    wanted = order["image"]["rootfs"]
    for service in SERVICES:
        image = engine.image(str((compose.container(service) or {}).get("Image"))) or {}
        layers = image.get("RootFS", {}).get("Layers", [])
        if wanted and layers != wanted:
            raise _failure(
                "rootfs_mismatch", f"the {len(layers)} layers of {service} differ from the {len(wanted)} locked layers"
            )
    return f"{len(wanted)} layers, as locked" if wanted else "the lock lists no layers"


class NoAnswerError(ProblemError):
    """No answer yet, which may be temporary; a wrong answer is not retried."""


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
    """Check that Jupyter accepts the token and refuses requests without it."""
    where = (wanted["binds"]["jupyter"], wanted["ports"]["jupyter"])
    token = (seat.identity / TOKEN).read_text()
    with_token = _status(where, "/api/status", {"Authorization": f"token {token}"})
    without = _status(where, "/api/contents", {})
    if (with_token, without) != (200, 403):
        found = f"answers {with_token} with the token and {without} without; expected: 200, 403"
        raise _failure("jupyter_fails", f"Jupyter at {where[0]}:{where[1]} {found}")
    return "answers 200 with the token, 403 without"


def _status(where: tuple[str, int], path: str, headers: dict[str, str]) -> int:
    """Return the status of an answer that comes within HTTP_SECONDS in all.

    The user can extend Jupyter, so the answer may come byte by byte for days: a time-out of the socket, which begins
    again with each byte, is not enough. http.client bounds the size of the head; the body is not read.
    """

    def ask() -> int:
        with contextlib.closing(http.client.HTTPConnection(*where, timeout=HTTP_SECONDS)) as connection:
            connection.request("GET", path, headers=headers)
            return connection.getresponse().status

    try:
        return int(run_in_child(ask, HTTP_SECONDS))
    except TimeoutError:
        reason = f"it takes longer than {HTTP_SECONDS} s"
    except ChildProcessError as error:
        reason = str(error)
    raise _failure("jupyter_fails", f"no answer from {where[0]}:{where[1]}: {reason}", NoAnswerError)


def check_banner(wanted: dict[str, Any]) -> str:
    """Check that sshd answers on the port of the seat."""
    where = (wanted["binds"]["ssh"], wanted["ports"]["ssh"])

    def ask() -> str:
        with socket.create_connection(where, timeout=SSH_SECONDS) as connection:
            return connection.recv(BANNER_BYTES).decode("ascii", "replace")

    try:
        banner = str(run_in_child(ask, SSH_SECONDS))
    except (TimeoutError, ChildProcessError) as error:
        reason = str(error) or f"it takes longer than {SSH_SECONDS} s"
        raise _failure("ssh_fails", f"no answer from {where[0]}:{where[1]}: {reason}", NoAnswerError) from None
    if not banner.startswith("SSH-"):
        raise _failure("ssh_fails", f"{where[0]}:{where[1]} is not sshd: it answers {banner!r}", NoAnswerError)
    return "sshd answers"


def check_ssh(seat: Seat, number: int, wanted: dict[str, Any]) -> str:
    """Log in by SSH with a temporary key; the server has to present the seat's host key.

    The session is one of sftp, which is a part of sshd: a command would run in the user's shell, which reads files of
    the home first. What they do to a command is said in the result, and does not count.
    """
    authorized = seat.generation(number) / "verify_keys"
    folder = Path(tempfile.mkdtemp(prefix="verify-", dir=str(seat.folder)))
    try:
        make_key(folder / "key", "provisioner-verify")
        _rewrite(authorized, (folder / "key.pub").read_text())
        port, address = wanted["ports"]["ssh"], wanted["binds"]["ssh"]
        (folder / "known_hosts").write_text(f"[{address}]:{port} {host_key(seat)}\n")
        login, where = [*_ssh(folder), "-p", str(port)], f"{wanted['user']}@{address}"
        ran = run([*login, "-s", where, "sftp"], SSH_SECONDS)
        in_shell = run([*login, where, "true"], SHELL_SECONDS) if ran.code == 0 else ran
    finally:
        _rewrite(authorized, "")
        shutil.rmtree(str(folder), ignore_errors=True)
    if ran.code != 0:
        raise _failure("ssh_fails", f"no login by key at {address}:{port}: {ran.message}", NoAnswerError)
    works = "login by key works, with the seat's host key"
    return works if in_shell.code == 0 else f"{works}; start files in the home end a shell: {_ending(in_shell)}"


def _ending(ran: CommandResult) -> str:
    return "it does not answer" if ran.code is None else f"exit code {ran.code}"


def clear_verify_keys(seat: Seat) -> None:
    """Remove the temporary key of a killed login check, and its entry in the authorized keys."""
    for folder in seat.folder.glob("verify-*"):
        shutil.rmtree(str(folder), ignore_errors=True)
    for path in seat.generations.glob("*/verify_keys"):
        _rewrite(path, "")


def _ssh(folder: Path) -> list[str]:
    files = [f"UserKnownHostsFile={folder}/known_hosts", "GlobalKnownHostsFile=/dev/null", "IdentityAgent=none"]
    strict = ["BatchMode=yes", "StrictHostKeyChecking=yes", "IdentitiesOnly=yes", "ConnectTimeout=10"]
    options = [word for option in strict + files for word in ("-o", option)]
    return ["ssh", "-F", "none", "-i", f"{folder}/key", *options]


def _rewrite(path: Path, text: str) -> None:
    """Write in place: the container has the file itself mounted, so it must not be replaced."""
    with path.open("r+") as file:
        file.truncate()
        file.write(text)


def verify_gpus(compose: Compose, order: dict[str, Any]) -> dict[str, Any]:
    """Check the GPUs in each service, and record where a program has computed. Raises ProblemError `gpu_fails`.

    No program computes on a GPU that others use, or that seats share and that was checked before. Return `detail`,
    `gpu` of the record, and in `problems` `proof_pending` if a GPU that is in use was never checked before.
    """
    with _gpu_choice(order) as choice:
        found = {service: check_gpus(compose, service, order, choice.spared) for service in SERVICES}
        skipped = {uuid for result in found.values() for uuid in result["skipped"]}
        record_proof(order, choice.driver, set(order["seat"]["gpus"]) - skipped)
    reasons = {uuid: why for uuid, why in choice.spared.items() if uuid in skipped}
    details = [f"{service}: {result['detail']}" for service, result in found.items()]
    return {
        "detail": "; ".join(details + [f"not computed on {uuid}: {why}" for uuid, why in reasons.items()]),
        "gpu": {name: found["jupyter"][name] for name in ("method", "uuids", "detail")},
        "problems": _pending(order["seat"]["name"], {u: why for u, why in reasons.items() if u not in choice.proved}),
    }


def _gpu_choice(order: dict[str, Any]) -> ContextManager[GpuChoice]:
    """Return the GPUs on which no program may compute now: in a self-service seat, all of them."""
    if not _is_brief(order):
        return chosen_gpus(order)
    gpus = order["seat"]["gpus"]
    return contextlib.nullcontext(GpuChoice("", set(gpus), dict.fromkeys(gpus, PUBLISHED)))


def _pending(seat: str, reasons: dict[str, str]) -> list[dict[str, str]]:
    """Return the problem `proof_pending` for GPUs on which no program with the image has computed since the boot."""
    if not reasons:
        return []
    fault = ProblemError(
        "proof_pending",
        f"{seat}: its image has not computed yet on {', '.join(reasons)}: {'; '.join(reasons.values())}",
        "a check that computes would disturb the user of the GPU; so far the driver lists it, and CUDA initialises",
        "nothing to do: the first switch of a seat with this image computes on the GPU if it is idle then",
    )
    return [fault.problem]


def check_gpus(compose: Compose, service: str, order: dict[str, Any], spared: Iterable[str] = ()) -> dict[str, Any]:
    """Run the order's GPU check in the container: it has to list exactly the reserved GPUs, and compute on them.

    It does not compute on the GPUs in `spared`; `skipped` of the result are those on which it did not: a check of
    an earlier release computes on all.
    """
    container = compose.container(service) or {"Id": "missing"}
    seat, wanted = order["seat"], sorted(order["seat"]["gpus"])
    user = f"{seat['uid']}:{seat['gid']}"
    argv = [*exec_python(container["Id"], user), *spared]
    ran = run(argv, GPU_SECONDS, text=order["files"]["gpu_check.py"], env=client_environment())
    found = parse_check(ran.out)
    if found is None:
        raise _failure("gpu_fails", f"{service}: the GPU check printed no result: {ran.message}")
    if sorted(found["uuids"]) != wanted:
        shown = ", ".join(found["uuids"]) or "no GPU"
        raise _failure(
            "gpu_fails", f"{service} sees {shown}; reserved: {', '.join(wanted) or 'none'}. {found['detail']}"
        )
    if wanted and not found["ok"]:
        raise _failure("gpu_fails", f"{service}: {found['detail']}")
    return found


def parse_check(text: str) -> dict[str, Any] | None:
    """Return the result of a GPU check, None without one. It is the last line: others may come before it."""
    try:
        found = json.loads(text.strip().rpartition("\n")[2])
        uuids = [str(uuid) for uuid in found["uuids"]]
        skipped = [str(uuid) for uuid in found.get("skipped", [])]
        return {
            "method": str(found["method"]),
            "uuids": uuids,
            "skipped": skipped,
            "ok": found["ok"] is True,
            "detail": str(found["detail"]),
        }
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _failure(code: str, what: str, kind: type[ProblemError] = ProblemError) -> ProblemError:
    return kind(
        code,
        what,
        "a seat is committed only when Jupyter, SSH and every reserved GPU work",
        "see failure.log in the folder of the generation for the logs of the containers",
    )
