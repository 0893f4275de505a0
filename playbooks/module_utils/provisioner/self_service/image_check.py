"""Checks of an image before it is published: it is pulled, it starts, and a program in it computes on a free GPU."""

from __future__ import annotations

from typing import Any, Mapping, NamedTuple, Sequence

from ansible.module_utils.provisioner.base.command import run
from ansible.module_utils.provisioner.base.problem import ProblemError
from ansible.module_utils.provisioner.base.progress import Report
from ansible.module_utils.provisioner.broker.orders import gpu_driver
from ansible.module_utils.provisioner.docker import engine
from ansible.module_utils.provisioner.docker.pull import pull
from ansible.module_utils.provisioner.docker.trial import image_accounts
from ansible.module_utils.provisioner.docker.trust import install_ca
from ansible.module_utils.provisioner.gpu.nvml import query_nvml
from ansible.module_utils.provisioner.gpu.processes import with_container_names
from ansible.module_utils.provisioner.gpu.proof import proved_gpus, record_proof
from ansible.module_utils.provisioner.gpu.use import gpu_use
from ansible.module_utils.provisioner.inside.check import QUESTIONS, check_trial
from ansible.module_utils.provisioner.seat.precheck import check_disk_space, check_engine
from ansible.module_utils.provisioner.seat.seat import ordered_cas
from ansible.module_utils.provisioner.transaction.verify import GPU_SECONDS, parse_check

ACCOUNT = 65534  # uid and gid of the trial: of no person
CHECK = "gpu_check.py"
KILL_SECONDS = 60
LIMITS = [
    *("--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--user", f"{ACCOUNT}:{ACCOUNT}"),
    *("--log-driver", "none", "--workdir", "/", "--env", "HOME=/nonexistent"),
]


class Pool(NamedTuple):
    """The GPUs that are leased to people, and those of them that somebody has now."""

    gpus: Sequence[str]
    leased: set[str]


class Checked(NamedTuple):
    """What was found, in words, and problems that are cautions only."""

    checks: dict[str, str]
    problems: list[dict[str, str]]


def check_image(order: dict[str, Any], name: str, document: Mapping[str, Any], pool: Pool, report: Report) -> Checked:
    """Pull the image of an environment and check it. Raises ProblemError.

    `order`: run, state root, and `image`, `registry` and `deadlines` of the environment `name`.
    """
    trial = {**order, "seat": {"name": f"self-service-{name}", "uid": ACCOUNT, "gid": ACCOUNT}}
    _pull(trial, report)
    report(f"starting the image of {name} for a test")
    image_accounts(trial)
    report(f"checking a GPU with the image of {name}")
    text, problems = _check_gpu(trial, document["files"][CHECK], pool)
    problems += _check_inside(trial, document["files"].get(QUESTIONS, ()))
    return Checked({f"image {name}": "is on the node and starts", f"gpu {name}": text}, problems)


def _check_inside(order: dict[str, Any], parts: Sequence[str]) -> list[dict[str, str]]:
    """Ask what lab.yml sets inside, in a container with a network. `parts`: the questions, as slotted."""
    argv = [*LIMITS, "--env", "NVIDIA_VISIBLE_DEVICES=void", *_python(order)]
    return check_trial(f"provisioner-inside-{order['seat']['name']}", argv, "".join(parts))


def _pull(order: dict[str, Any], report: Report) -> None:
    info, image, registry = check_engine(), order["image"], order["registry"]
    check_disk_space(info, 0 if engine.image(image["reference"]) else image["bytes"])
    if registry["ca"]:
        install_ca(registry, ordered_cas(order["state_root"], registry["address"]))
    pull(order, report)


def _check_gpu(order: dict[str, Any], parts: Sequence[str], pool: Pool) -> tuple[str, list[dict[str, str]]]:
    """Compute on one free GPU of the pool, unless that was done since the boot. `parts`: the program, as slotted."""
    nvml = query_nvml()
    driver = nvml.get("driver") or ""
    if not pool.gpus:
        return "no GPU is leased", []
    if proved_gpus(order, driver) & set(pool.gpus):
        return "a program has computed with this image since the boot", []
    known = {gpu.get("uuid"): gpu for gpu in with_container_names(nvml.get("gpus", []))}
    free = [uuid for uuid in pool.gpus if uuid not in pool.leased and not gpu_use(uuid, known.get(uuid))]
    if not free:
        return "not checked: no GPU is free", [_pending(order)]
    detail = _compute(order, free[0], "".join(parts))
    record_proof(order, driver, free[:1])
    return detail, []


def _compute(order: dict[str, Any], uuid: str, program: str) -> str:
    """Run the program of the check in a container with one GPU, and return what it says of it."""
    name, environment = f"provisioner-trial-{order['seat']['name']}", engine.client_environment()
    remove = ["docker", "rm", "-f", name]
    run(remove, KILL_SECONDS, env=environment)  # left by a killed job
    words = [*LIMITS, "--network", "none", *_gpu_words(uuid), *_python(order)]
    argv = ["docker", "run", "--rm", "-i", "--name", name, *words]
    ran = run(argv, GPU_SECONDS, text=program, env=environment)
    found = parse_check(ran.out)
    if ran.code != 0:
        run(remove, KILL_SECONDS, env=environment)
    if found is None:
        raise _fails(order, f"it printed no result: {ran.message}")
    if found["uuids"] != [uuid] or not found["ok"]:
        raise _fails(order, f"{found['detail']}; it saw {', '.join(found['uuids']) or 'no GPU'}, and was given {uuid}")
    return f"{found['detail']} ({uuid})"


def _python(order: dict[str, Any]) -> list[str]:
    """Return the last words of a `docker run` of the image, which run a program from stdin."""
    return ["--pull", "never", "--entrypoint", "python3", order["image"]["reference"], "-I", "-"]


def _gpu_words(uuid: str) -> list[str]:
    """Return the options of `docker run` for one GPU, as a seat on this node gets it."""
    if gpu_driver([uuid]) == "cdi":
        return ["--env", "NVIDIA_VISIBLE_DEVICES=void", "--device", f"nvidia.com/gpu={uuid}"]
    return ["--gpus", f"device={uuid}"]


def _fails(order: dict[str, Any], why: str) -> ProblemError:
    return ProblemError(
        "gpu_fails",
        f"the GPU check with {order['image']['reference']} failed: {why}",
        "an environment is published only when a program in it has computed on a GPU of the node",
        "check the driver and the container toolkit of the node: provision probe",
    )


def _pending(order: dict[str, Any]) -> dict[str, str]:
    return ProblemError(
        "proof_pending",
        f"no program with {order['image']['tag']} has computed on a GPU of the pool yet: none is free",
        "a check that computes would disturb the user of the GPU",
        "nothing to do: the next rollout checks it if a GPU is free then",
    ).problem
