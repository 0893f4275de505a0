"""Lab images made for real, and a seat of one running on a node: what is promised of both, seen from outside."""

import gc
import http.client
import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from provisioner.adapters.engine.docker_engine import DockerEngine
from provisioner.domain.lock import LockedImage
from provisioner.domain.problem import CannotGoOn
from provisioner.domain.reference import ImageReference
from tests.adapters.engine.workbench import GENERATION, ODD, TOKEN, Bench
from tests.lab.bed import Lab, running_lab
from tests.lab.engine import Engine
from tests.lab.images import make_small
from tests.lab.tags import DEMO_TAGS, push_demo_tags
from tests.made_wheel import a_wheel

pytestmark = pytest.mark.lab

CONDA = "pytorch/pytorch:2.8.0-cuda12.8-cudnn9-runtime"
SYSTEM = "pytorch/pytorch:2.10.0-cuda12.8-cudnn9-runtime"
COMPLETE = "lab/complete:1"
SEES = "import ipykernel, torch; print(torch.__file__)"


@pytest.fixture(scope="module")
def bench(testbed: Engine) -> Iterator[Bench]:
    with running_lab(testbed, ["rtx4090-570"]) as lab, pytest.MonkeyPatch.context() as monkeypatch:
        push_demo_tags(lab.mirror)
        for name, value in testbed.client_env().items():
            monkeypatch.setenv(name, value)
        yield Bench(lab)
        forget_images(testbed, lab)


def forget_images(engine: Engine, lab: Lab) -> None:
    """Names of images outlive the registries that they name."""
    names = engine.docker("image", "ls", "--format", "{{.Repository}}:{{.Tag}}").split()
    addresses = (lab.registry.ip, lab.mirror.ip)
    if ours := [name for name in names if name.startswith(addresses) and "<none>" not in name]:
        engine.docker("rmi", *ours)


@pytest.fixture(scope="module")
def system(bench: Bench) -> LockedImage:
    return bench.lab_image(SYSTEM)


@pytest.fixture(scope="module")
def seated(bench: Bench, system: LockedImage) -> Bench:
    bench.seat(system)
    return bench


def test_a_base_with_python_in_conda_becomes_a_lab_image(bench: Bench) -> None:
    image = bench.lab_image(CONDA)
    assert bench.acts() == ["pulling", "downloading", "building", "pushing"]
    assert_fit(bench, image, "/opt/conda/lib/")


def test_a_base_with_an_externally_managed_python_becomes_a_lab_image(bench: Bench, system: LockedImage) -> None:
    assert_fit(bench, system, "/usr/local/lib/")


def test_a_tag_that_moves_after_it_was_looked_at_is_taken_as_it_was(bench: Bench) -> None:
    make_small(bench.lab.engine, "provisioner-test/other", layers=1)
    was = bench.lab.mirror.digest(CONDA)
    try:
        image = bench.lab_image(CONDA, between=lambda: bench.lab.mirror.push("provisioner-test/other", CONDA))
        assert bench.lab.mirror.digest(CONDA) != was
    finally:
        bench.lab.mirror.push(next(tag.image for tag in DEMO_TAGS if tag.name == CONDA), CONDA)
    assert image.base.endswith(f"@{was}")
    assert_fit(bench, image, "/opt/conda/lib/")


def assert_fit(bench: Bench, image: LockedImage, packages: str) -> None:
    """Jupyter and sshd are there; the base's torch is what its Python sees; nothing of the build is left."""
    look = "which python pip jupyter; test -x /usr/sbin/sshd; ls -d /etc/ssh/ssh_host* /build /var/lib/apt/lists/?*"
    said = bench.as_student(image.lab, f"python -c '{SEES}'; {look} 2>/dev/null || true").splitlines()
    assert said[0].startswith(packages)
    assert said[1:] == [f"/opt/provisioner/env/bin/{name}" for name in ("python", "pip", "jupyter")]
    held = json.loads(bench.lab.engine.docker("image", "inspect", image.lab))[0]
    assert tuple(held["RootFS"]["Layers"]) == image.rootfs
    assert held["Config"]["Labels"]["provisioner.inputs"] == image.inputs
    assert 0 < image.bytes < held["Size"]


def test_what_was_made_before_is_found_again_without_an_engine(
    bench: Bench, system: LockedImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = wholly_fetched(bench)
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    assert bench.lab_image(SYSTEM) == system
    assert [event.kind for event in bench.events] == ["skipped"]
    assert not set(wholly_fetched(bench)[len(before) :]) & set(bench.lab.mirror.layers(SYSTEM))


def wholly_fetched(bench: Bench) -> list[str]:
    """A look at the mirror reads small blobs whole, of others the first bytes; an engine reads all of all."""
    asked = [access for access in bench.lab.mirror.access_log() if access.method == "GET" and access.status == 200]
    return [access.path.rpartition("/")[2] for access in asked if "/blobs/" in access.path and access.size > 1 << 16]


@pytest.mark.filterwarnings("ignore:unclosed", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_engine_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    with pytest.raises(CannotGoOn) as refused:
        DockerEngine.connect({}, lambda _: None)
    assert the_code(refused) == "no_engine"
    # Docker's own client leaves the socket open that it could not connect; what was raised holds on to it.
    del refused
    gc.collect()


def test_a_complete_base_is_copied_and_not_built(bench: Bench, system: LockedImage) -> None:
    bench.lab.mirror.push(system.lab, COMPLETE)
    copied = bench.lab_image(COMPLETE)
    assert bench.acts() == ["pulling", "pushing"]
    assert copied.rootfs == system.rootfs
    assert bench.lab_image(COMPLETE) == copied
    assert bench.acts() == []


@pytest.mark.usefixtures("system")
def test_layers_are_fetched_from_the_mirror_once_at_most(bench: Bench) -> None:
    # The outer engine has most of them: the images were made there.
    layers = set(bench.lab.mirror.layers(SYSTEM))
    fetched = [digest for digest in wholly_fetched(bench) if digest in layers]
    assert len(fetched) == len(set(fetched))


@pytest.fixture
def engine(bench: Bench) -> Iterator[DockerEngine]:
    with closing(DockerEngine.connect({}, bench.events.append)) as engine:
        yield engine


def the_code(refused: pytest.ExceptionInfo[CannotGoOn]) -> str:
    (problem,) = refused.value.problems
    return problem.code


def test_a_build_that_fails_says_its_last_lines(bench: Bench, engine: DockerEngine, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(
        f"FROM {bench.lab.mirror.address}/{SYSTEM}\nRUN echo first; echo last; exit 3\n"
    )
    with pytest.raises(CannotGoOn) as refused:
        engine.build(tmp_path, ImageReference.parse("registry.lab:1/x:1"), {}, {})
    assert the_code(refused) == "build_failed"
    assert "first\nlast\n" in refused.value.problems[0].what


def test_a_pull_of_what_is_not_there_fails_with_its_name(bench: Bench, engine: DockerEngine) -> None:
    missing = ImageReference.parse(f"{bench.lab.mirror.address}/pytorch/pytorch@sha256:{'0' * 64}")
    with pytest.raises(CannotGoOn) as refused:
        engine.pull(missing, 0)
    assert the_code(refused) == "pull_failed"
    assert missing.by_digest() in refused.value.problems[0].what


def test_a_push_to_a_registry_that_is_gone_fails_with_its_name(
    bench: Bench, engine: DockerEngine, system: LockedImage
) -> None:
    gone = ImageReference.parse(f"{bench.lab.mirror.address.partition(':')[0]}:9/lab:1")
    engine.tag(system.lab, gone)
    with pytest.raises(CannotGoOn) as refused:
        engine.push(gone)
    assert the_code(refused) == "push_failed"


def test_an_image_without_python_is_no_base(engine: DockerEngine) -> None:
    with pytest.raises(CannotGoOn) as refused:
        engine.base_facts("lab/registry", "")
    assert the_code(refused) == "base_unfit"


def test_both_services_run_as_the_student_and_can_gain_nothing(seated: Bench) -> None:
    for service in ("jupyter", "ssh"):
        status = seated.on_node("docker", "exec", f"demo-student-{service}-1", "cat", "/proc/1/status")
        held = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        assert held["Uid"].split() == ["1000"] * 4
        assert held["NoNewPrivs"] == "1"
        assert {held[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}


def asked(seated: Bench, path: str, token: str | None, method: str = "GET") -> tuple[int, str]:
    address = seated.lab.nodes[0].address
    with closing(http.client.HTTPConnection(address, 22001, timeout=20)) as connection:
        connection.request(method, path, headers={} if token is None else {"Authorization": f"token {token}"})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


def test_jupyter_lets_in_by_the_token_alone(seated: Bench) -> None:
    assert asked(seated, "/api/contents", TOKEN)[0] == 200
    assert [asked(seated, "/api/contents", token)[0] for token in (None, "", "wrong")] == [403, 403, 403]
    log = seated.on_node("docker", "logs", "demo-student-jupyter-1")
    inspected = seated.on_node("docker", "inspect", "demo-student-jupyter-1")
    assert TOKEN not in log + inspected


def test_a_notebook_and_a_terminal_can_be_opened(seated: Bench) -> None:
    assert asked(seated, "/api/kernels", TOKEN, "POST")[0] == 201
    assert asked(seated, "/api/terminals", TOKEN, "POST")[0] == 200


def test_ssh_sessions_have_the_images_environment(seated: Bench) -> None:
    said = seated.ssh(
        f"python -c '{SEES}'; printenv ODD HOME USER NVIDIA_DRIVER_CAPABILITIES; env | grep -c 5f5f || true"
    )
    assert said.splitlines()[0].startswith("/usr/local/lib/")
    assert said.splitlines()[1:] == [ODD, "/home/student", "student", "compute,utility", "0"]


def test_a_login_shell_finds_the_same_python(seated: Bench) -> None:
    assert seated.ssh("bash -lc 'which python'").strip() == "/opt/provisioner/env/bin/python"


def test_ssh_offers_a_terminal_and_files_and_nothing_beyond_keys(seated: Bench) -> None:
    assert seated.ssh("tty", "-tt").strip().startswith("/dev/pts/")
    refused = seated.lab.engine.try_docker(
        "exec", seated.node, "ssh", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no", "-p", "22000",
        f"student@{seated.lab.nodes[0].address}",
    )  # fmt: skip
    assert "Permission denied (publickey)" in refused.stderr


def test_students_install_what_they_like_and_jupyter_goes_on(seated: Bench, tmp_path: Path) -> None:
    """Also another version of what Jupyter itself stands on; it goes into their home, for this base only."""
    seated.ssh("true")
    for wheel in (a_wheel(tmp_path, "idna", "2.0"), a_wheel(tmp_path, "traitlets", "1.0")):
        seated.put_in_home(wheel)
    seated.ssh("pip install --no-index --quiet ./idna-2.0-py3-none-any.whl ./traitlets-1.0-py3-none-any.whl 2>&1")
    said = seated.ssh("python -c 'import idna, traitlets; print(idna.__file__, traitlets.version)'")
    assert said.startswith("/home/student/.provisioner/python/2.10.0-")
    assert said.split()[1] == "1.0"
    seated.on_node("docker", "restart", "-t", "5", "demo-student-jupyter-1")
    where = ("--project-directory", GENERATION, "-f", f"{GENERATION}/compose.yaml")
    seated.on_node("docker", "compose", *where, "up", "-d", "--wait", "--wait-timeout", "60")
    assert asked(seated, "/api/status", TOKEN)[0] == 200


def test_the_gpu_check_computes_on_the_seats_own_gpu(seated: Bench) -> None:
    check = seated.on_node("cat", f"{GENERATION}/gpu_check.py")
    said = seated.on_node("docker", "exec", "-i", "demo-student-ssh-1", "python3", "-", stdin=check)
    found = json.loads(said)
    assert (found["method"], found["ok"]) == ("torch", True)
    assert len(found["uuids"]) == 1


def test_the_node_compose_reads_the_file_as_it_was_proved(seated: Bench) -> None:
    read = ("docker", "compose", "-f", f"{GENERATION}/compose.yaml", "config", "--format", "json")
    ssh = json.loads(seated.on_node(*read))["services"]["ssh"]
    assert ssh["cap_drop"] == ["ALL"]
    assert [port["host_ip"] for port in ssh["ports"]] == [seated.lab.nodes[0].address]
    assert ssh["environment"]["ODD"] == ODD.replace("$", "$$")  # as compose writes what it would not fill in
