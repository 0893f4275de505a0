"""Lab images built with a real engine, and a seat that runs one of them on a node."""

import gc
import http.client
import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from provisioner.adapters.engine.docker_engine import DockerEngine
from provisioner.domain.lab.environments import ImageSettings
from provisioner.domain.lab.lock import LockedImage
from provisioner.domain.values.problem import Problem, ProblemError
from provisioner.domain.values.reference import ImageReference
from tests.adapters.engine.workbench import GENERATION, ODD, STATE, STUDENT, TOKEN, Bench
from tests.lab.bed import Lab, running_lab
from tests.lab.engine import Engine
from tests.lab.images import make_small
from tests.lab.tags import DEMO_TAGS, push_demo_tags
from tests.made_wheel import a_wheel, install_wheels

pytestmark = pytest.mark.lab

CONDA = "pytorch/pytorch:2.8.0-cuda12.8-cudnn9-runtime"
SYSTEM = "pytorch/pytorch:2.10.0-cuda12.8-cudnn9-runtime"
COMPLETE = "lab/complete:1"
TORCH_PATH = "import ipykernel, torch; print(torch.__file__)"
# Prints the version of torch, and the place of a package that the student has installed.
INSPECT = "import torch, labmate; print(torch.__version__, labmate.__file__)"
# The same in a notebook: a real kernel, started from its specification.
INSPECT_IN_KERNEL = f"""
import nbclient, nbformat
notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell({INSPECT!r})])
nbclient.NotebookClient(notebook, kernel_name="python3").execute()
print(notebook.cells[0].outputs[0].text)
"""


@pytest.fixture(scope="module")
def bench(testbed: Engine) -> Iterator[Bench]:
    with running_lab(testbed, ["rtx4090-570"]) as lab, pytest.MonkeyPatch.context() as monkeypatch:
        push_demo_tags(lab.mirror)
        for name, value in testbed.client_env().items():
            monkeypatch.setenv(name, value)
        yield Bench(lab)
        remove_images(testbed, lab)


def remove_images(engine: Engine, lab: Lab) -> None:
    """Remove the images of the lab's registries, which the outer engine would keep."""
    names = engine.docker("image", "ls", "--format", "{{.Repository}}:{{.Tag}}").split()
    addresses = (lab.registry.ip, lab.mirror.ip)
    if ours := [name for name in names if name.startswith(addresses) and "<none>" not in name]:
        engine.docker("rmi", *ours)


@pytest.fixture(scope="module")
def system(bench: Bench) -> LockedImage:
    return bench.lab_image(SYSTEM)


@pytest.fixture(scope="module")
def bench_with_seat(bench: Bench, system: LockedImage) -> Bench:
    bench.seat(system)
    return bench


def test_a_base_with_python_in_conda_becomes_a_lab_image(bench: Bench) -> None:
    image = bench.lab_image(CONDA)
    assert bench.steps() == ["pulling", "downloading", "building", "pushing"]
    assert_complete(bench, image, "/opt/conda/lib/")


def test_a_base_with_an_externally_managed_python_becomes_a_lab_image(bench: Bench, system: LockedImage) -> None:
    assert_complete(bench, system, "/usr/local/lib/")


def test_a_tag_that_moves_after_inspection_is_pulled_by_its_old_digest(bench: Bench) -> None:
    make_small(bench.lab.engine, "provisioner-test/other", layers=1)
    was = bench.lab.mirror.digest(CONDA)
    try:
        image = bench.lab_image(CONDA, before_build=lambda: bench.lab.mirror.push("provisioner-test/other", CONDA))
        assert bench.lab.mirror.digest(CONDA) != was
    finally:
        bench.lab.mirror.push(next(tag.image for tag in DEMO_TAGS if tag.name == CONDA), CONDA)
    assert image.base.endswith(f"@{was}")
    assert_complete(bench, image, "/opt/conda/lib/")


# Three packages of a course, small ones.
COURSE = ImageSettings(apt=("jq", "tree", "file"))
TOOLS = ("git", "tmux", "vim", "nano", "less", "htop", "curl", "wget", "rsync", "unzip", "ps", "ssh", "nvitop")


@pytest.fixture(scope="module")
def course(bench: Bench) -> LockedImage:
    """The image of a course on a base with conda: tools, and packages of its own."""
    return bench.lab_image(CONDA, COURSE)


def test_an_environment_has_tools_and_packages_and_their_versions(bench: Bench, course: LockedImage) -> None:
    form = "${Package} ${Version}\\n"
    found = bench.as_student(course.lab, f"dpkg-query -W -f '{form}' file jq tree").splitlines()
    assert [f"{name} {version}" for name, version in course.packages.items()] == found
    assert list(course.packages) == ["file", "jq", "tree"]
    words = " ".join(TOOLS)
    assert len(bench.as_student(course.lab, f"bash -lc 'which {words} jq tree file'").splitlines()) == len(TOOLS) + 3
    assert bench.as_student(course.lab, "ls /tmp /var/lib/apt/lists") == "/tmp:\n\n/var/lib/apt/lists:"
    assert_complete(bench, course, "/opt/conda/lib/")


def test_an_environment_with_tools_speaks_chinese(bench: Bench, course: LockedImage) -> None:
    month = "import locale, time; locale.setlocale(locale.LC_ALL, 'zh_CN.UTF-8'); print(time.strftime('%B'))"
    answers = bench.as_student(
        course.lab,
        f'python -c "{month}"; echo $LANG; python -c "import os; print(os.environ[\'MATPLOTLIBRC\'])"; '
        "TZ=Asia/Shanghai date +%Z; test -s /usr/share/fonts/truetype/wqy/wqy-microhei.ttc && echo font",
    ).splitlines()
    assert answers[0].endswith("月")
    assert answers[1:] == ["C.UTF-8", "/opt/provisioner/matplotlib/matplotlibrc", "CST", "font"]


# Warnings are errors: a letter or a font that is missing is one.
PLOT = """
import warnings; warnings.simplefilter("error")
import matplotlib; matplotlib.use("agg")
import matplotlib.pyplot as plt
plt.plot([-2, -1, 0], [-1e-3, 0, 1e-3]); plt.title("训练损失"); plt.savefig("/tmp/plot.png")
print(matplotlib.rcParams["font.family"], matplotlib.rcParams["axes.unicode_minus"])
"""


def test_a_plot_has_chinese_letters_and_minus_signs(bench: Bench, course: LockedImage, tmp_path: Path) -> None:
    version = bench.as_student(course.lab, "python -c 'import sys; print(\"%d.%d\" % sys.version_info[:2])'").strip()
    install_wheels(tmp_path / "packages", "matplotlib", python=version)
    tmp_path.chmod(0o755)
    (tmp_path / "plot.py").write_text(PLOT)
    mounts = ("-v", f"{tmp_path}:/mnt:ro", "-e", "PYTHONPATH=/mnt/packages", "-e", "HOME=/tmp")
    who = ("--user", f"{STUDENT}:{STUDENT}", "--entrypoint", "python")
    shown = bench.lab.engine.docker("run", "--rm", *who, *mounts, course.lab, "-s", "/mnt/plot.py")
    assert shown == "['sans-serif', 'WenQuanYi Micro Hei'] True"


def test_a_package_more_is_a_layer_of_its_own(bench: Bench, course: LockedImage) -> None:
    """The layers before it are those that nodes have. The copied script is a layer, and what removes it is the next."""
    more = bench.lab_image(CONDA, COURSE.model_copy(update={"apt": (*COURSE.apt, "bc")}))
    assert len(more.rootfs) == len(course.rootfs)
    assert [one == other for one, other in zip(more.rootfs, course.rootfs, strict=True)].index(False) == len(
        more.rootfs
    ) - 1
    assert set(more.packages) - set(course.packages) == {"bc"}


def test_another_order_of_the_packages_builds_nothing(bench: Bench, course: LockedImage) -> None:
    again = COURSE.model_copy(update={"apt": tuple(reversed(COURSE.apt)), "apt_mirror": "http://127.0.0.1:9"})
    assert bench.lab_image(CONDA, again) == course
    assert bench.steps() == []


def refused(bench: Bench, settings: ImageSettings) -> Problem:
    with pytest.raises(ProblemError) as problems:
        bench.lab_image(SYSTEM, settings)
    return problems.value.problems[0]


@pytest.mark.usefixtures("system")
def test_packages_that_do_not_exist_are_named_all_at_once(bench: Bench) -> None:
    """`sox-` would have apt remove sox, and `li.bc6` is a pattern for it."""
    problem = refused(bench, ImageSettings(tools=False, apt=("jq", "no-such-package", "sox-", "li.bc6")))
    assert problem.code == "apt_package"
    assert problem.what.startswith("li.bc6, no-such-package, sox- cannot be installed")


@pytest.mark.long("course")  # tests/templates/test_install_packages.py holds the marks, for every commit
@pytest.mark.usefixtures("system")
def test_a_name_that_only_others_provide_is_refused_with_the_reason(bench: Bench) -> None:
    problem = refused(bench, ImageSettings(tools=False, apt=("mail-transport-agent", "jq")))
    assert problem.code == "apt_package"
    assert problem.what.startswith("mail-transport-agent cannot be installed")
    assert "Step" not in problem.what


@pytest.mark.long("course")  # tests/templates/test_install_packages.py holds the marks, for every commit
def test_a_mirror_of_packages_that_does_not_answer_is_the_cause(bench: Bench) -> None:
    problem = refused(bench, ImageSettings(tools=False, apt=("jq",), apt_mirror="http://127.0.0.1:9/x"))
    assert problem.code == "apt_mirror_failed"
    assert "http://127.0.0.1:9/x/debian" in problem.what


def assert_complete(bench: Bench, image: LockedImage, packages: str) -> None:
    """Jupyter and sshd are installed, Python imports the base's torch, and no file of the build is left."""
    checks = "which python pip jupyter; test -x /usr/sbin/sshd; ls -d /etc/ssh/ssh_host* /build /var/lib/apt/lists/?*"
    lines = bench.as_student(image.lab, f"python -c '{TORCH_PATH}'; {checks} 2>/dev/null || true").splitlines()
    assert lines[0].startswith(packages)
    assert lines[1:] == [f"/opt/provisioner/env/bin/{name}" for name in ("python", "pip", "jupyter")]
    inspected = json.loads(bench.lab.engine.docker("image", "inspect", image.lab))[0]
    assert tuple(inspected["RootFS"]["Layers"]) == image.rootfs
    assert inspected["Config"]["Labels"]["provisioner.inputs"] == image.inputs
    assert 0 < image.bytes < inspected["Size"]


def test_an_image_built_before_is_found_without_an_engine(
    bench: Bench, system: LockedImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = fully_read_blobs(bench)
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    assert bench.lab_image(SYSTEM) == system
    assert [event.kind for event in bench.events] == ["skipped"]
    assert not set(fully_read_blobs(bench)[len(before) :]) & set(bench.lab.mirror.layers(SYSTEM))


def fully_read_blobs(bench: Bench) -> list[str]:
    """Return large blobs that were read completely: by an engine, as an inspection reads their first bytes only."""
    requests = [access for access in bench.lab.mirror.access_log() if access.method == "GET" and access.status == 200]
    return [access.path.rpartition("/")[2] for access in requests if "/blobs/" in access.path and access.size > 1 << 16]


@pytest.mark.filterwarnings("ignore:unclosed", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_engine_that_does_not_answer_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    with pytest.raises(ProblemError) as refused:
        DockerEngine.connect({}, lambda _: None)
    assert code_of(refused) == "no_engine"
    # Docker's client leaves a socket open after a failed connection; the exception keeps a reference to it.
    del refused
    gc.collect()


def test_a_complete_base_is_copied_and_not_built(bench: Bench, system: LockedImage) -> None:
    bench.lab.mirror.push(system.lab, COMPLETE)
    copied = bench.lab_image(COMPLETE)
    assert bench.steps() == ["pulling", "pushing"]
    assert copied.rootfs == system.rootfs
    assert bench.lab_image(COMPLETE) == copied
    assert bench.steps() == []


@pytest.mark.usefixtures("system")
def test_layers_are_fetched_from_the_mirror_once_at_most(bench: Bench) -> None:
    # The outer engine has most of them: the images were made there.
    layers = set(bench.lab.mirror.layers(SYSTEM))
    fetched = [digest for digest in fully_read_blobs(bench) if digest in layers]
    assert len(fetched) == len(set(fetched))


@pytest.fixture
def engine(bench: Bench) -> Iterator[DockerEngine]:
    with closing(DockerEngine.connect({}, bench.events.append)) as engine:
        yield engine


def code_of(refused: pytest.ExceptionInfo[ProblemError]) -> str:
    (problem,) = refused.value.problems
    return problem.code


def test_a_failed_build_is_reported_with_its_last_lines(bench: Bench, engine: DockerEngine, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(
        f"FROM {bench.lab.mirror.address}/{SYSTEM}\nRUN echo first; echo last; exit 3\n"
    )
    with pytest.raises(ProblemError) as refused:
        engine.build(tmp_path, ImageReference.parse("registry.lab:1/x:1"), {}, {})
    assert code_of(refused) == "build_failed"
    assert "first\nlast\n" in refused.value.problems[0].what


def test_a_pull_of_a_missing_image_fails_with_its_name(bench: Bench, engine: DockerEngine) -> None:
    missing = ImageReference.parse(f"{bench.lab.mirror.address}/pytorch/pytorch@sha256:{'0' * 64}")
    with pytest.raises(ProblemError) as refused:
        engine.pull(missing, 0)
    assert code_of(refused) == "pull_failed"
    assert missing.by_digest() in refused.value.problems[0].what


def test_a_push_to_an_unreachable_registry_fails(bench: Bench, engine: DockerEngine, system: LockedImage) -> None:
    gone = ImageReference.parse(f"{bench.lab.mirror.address.partition(':')[0]}:9/lab:1")
    engine.tag(system.lab, gone)
    with pytest.raises(ProblemError) as refused:
        engine.push(gone)
    assert code_of(refused) == "push_failed"


def test_an_image_without_python_is_refused_as_a_base(engine: DockerEngine) -> None:
    with pytest.raises(ProblemError) as refused:
        engine.base_facts("lab/registry", "")
    assert code_of(refused) == "base_unfit"


def test_the_container_that_inspects_a_base_can_do_nothing_and_is_removed_when_it_hangs(
    engine: DockerEngine, testbed: Engine
) -> None:
    image = "lab/tree-python"
    show = "print([line for line in open('/proc/self/status') if line.startswith(('CapBnd', 'NoNewPrivs'))])"
    mark = "time.sleep(600.25)"  # other tests start and stop containers of the same engine and image meanwhile
    with pytest.raises(ProblemError) as refused:
        engine.base_facts(image, show)
    assert f"CapBnd:\\\\t{'0' * 16}" in str(refused.value)
    assert "NoNewPrivs:\\\\t1" in str(refused.value)
    with pytest.raises(ProblemError) as refused:
        engine.base_facts(image, f"import time; {mark}", seconds=2)
    assert code_of(refused) == "base_unfit"
    listed = testbed.docker("ps", "-a", "--no-trunc", "--format", "{{.Command}}")
    assert mark not in listed
    assert "CapBnd" not in listed


def test_both_services_run_as_the_student_without_capabilities(bench_with_seat: Bench) -> None:
    for service in ("jupyter", "ssh"):
        status = bench_with_seat.on_node("docker", "exec", f"demo-student-{service}-1", "cat", "/proc/1/status")
        fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        assert fields["Uid"].split() == ["1000"] * 4
        assert fields["NoNewPrivs"] == "1"
        assert {fields[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}


def request(bench_with_seat: Bench, path: str, token: str | None, method: str = "GET") -> tuple[int, str]:
    address = bench_with_seat.lab.nodes[0].address
    with closing(http.client.HTTPConnection(address, 22001, timeout=20)) as connection:
        connection.request(method, path, headers={} if token is None else {"Authorization": f"token {token}"})
        response = connection.getresponse()
        return response.status, response.read().decode()


def test_jupyter_accepts_only_the_token_and_never_logs_it(bench_with_seat: Bench) -> None:
    assert request(bench_with_seat, "/api/contents", TOKEN)[0] == 200
    assert [request(bench_with_seat, "/api/contents", token)[0] for token in (None, "", "wrong")] == [403, 403, 403]
    log = bench_with_seat.on_node("docker", "logs", "demo-student-jupyter-1")
    inspected = bench_with_seat.on_node("docker", "inspect", "demo-student-jupyter-1")
    assert TOKEN not in log + inspected


def test_jupyter_and_a_terminal_in_it_show_the_notice(bench_with_seat: Bench) -> None:
    bench_with_seat.on_node("tee", f"{STATE}/notice/notice.txt", stdin="exam at noon\n")
    assert request(bench_with_seat, "/static/notice.txt", None) == (200, "exam at noon\n")
    shell = ("docker", "exec", "demo-student-jupyter-1", "bash", "-lic", "true")
    assert "*** exam at noon" in bench_with_seat.on_node(*shell)


def test_jupyter_asks_no_server_for_news_and_speaks_chinese(bench_with_seat: Bench) -> None:
    assert json.loads(request(bench_with_seat, "/lab/api/news", TOKEN)[1]) == {"news": []}
    assert json.loads(request(bench_with_seat, "/lab/api/update", TOKEN)[1]) == {"notification": None}
    assert '"zh_CN"' in request(bench_with_seat, "/lab/api/translations/", TOKEN)[1]
    page = request(bench_with_seat, "/lab", TOKEN)[1]
    assert '"disabledExtensions": ["@jupyterlab/apputils-extension:announcements"]' in page


def test_nvitop_sees_the_gpu_of_the_seat_alone(bench_with_seat: Bench) -> None:
    shown = bench_with_seat.ssh("TERM=xterm nvitop --once --ascii 2>/dev/null")
    assert shown.count("RTX 4090") == 1, shown


def test_a_notebook_and_a_terminal_can_be_opened(bench_with_seat: Bench) -> None:
    assert request(bench_with_seat, "/api/kernels", TOKEN, "POST")[0] == 201
    assert request(bench_with_seat, "/api/terminals", TOKEN, "POST")[0] == 200
    assert not bench_with_seat.ssh(f"grep -rl {TOKEN} ~ || true"), "backups of the home would have the token"


def test_ssh_sessions_have_the_environment_of_the_image(bench_with_seat: Bench) -> None:
    output = bench_with_seat.ssh(
        f"python -c '{TORCH_PATH}'; printenv ODD HOME USER NVIDIA_DRIVER_CAPABILITIES; env | grep -c 5f5f || true"
    )
    assert output.splitlines()[0].startswith("/usr/local/lib/")
    assert output.splitlines()[1:] == [ODD, "/home/student", "student", "compute,utility", "0"]


def test_a_login_shell_finds_the_same_python(bench_with_seat: Bench) -> None:
    assert bench_with_seat.ssh("bash -lc 'which python'").strip() == "/opt/provisioner/env/bin/python"


def test_ssh_opens_a_terminal_and_accepts_only_keys(bench_with_seat: Bench) -> None:
    assert bench_with_seat.ssh("tty", "-tt").strip().startswith("/dev/pts/")
    refused = bench_with_seat.lab.engine.try_docker(
        "exec", bench_with_seat.node, "ssh", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no", "-p", "22000",
        f"student@{bench_with_seat.lab.nodes[0].address}",
    )  # fmt: skip
    assert "Permission denied (publickey)" in refused.stderr


def test_a_package_installed_by_the_student_is_found_in_ssh_terminal_and_kernel(
    bench_with_seat: Bench, tmp_path: Path
) -> None:
    bench_with_seat.ssh("true")  # scp needs the host key that this writes down
    wheel = a_wheel(tmp_path, "labmate", "1.0")
    bench_with_seat.put_in_home(wheel)
    bench_with_seat.ssh(f"pip install --no-index --quiet ./{wheel.name} 2>&1")
    in_jupyter = ("docker", "exec", "demo-student-jupyter-1")
    answers = [
        bench_with_seat.ssh(f"python -c '{INSPECT}'"),
        bench_with_seat.on_node(*in_jupyter, "bash", "-lc", f"python -c '{INSPECT}'"),
        bench_with_seat.on_node(*in_jupyter, "/opt/provisioner/jupyter/bin/python", "-c", INSPECT_IN_KERNEL),
    ]
    torch, place = answers[0].split()
    assert torch == "2.10.0"
    assert place.startswith("/home/student/.provisioner/python/2.10.0-")
    assert [answer.split() for answer in answers] == [[torch, place]] * 3


def test_packages_installed_by_a_student_do_not_break_jupyter(bench_with_seat: Bench, tmp_path: Path) -> None:
    """Also other versions of Jupyter's dependencies: they go to a folder of the home for this base only."""
    bench_with_seat.ssh("true")
    for wheel in (a_wheel(tmp_path, "idna", "2.0"), a_wheel(tmp_path, "traitlets", "1.0")):
        bench_with_seat.put_in_home(wheel)
    bench_with_seat.ssh(
        "pip install --no-index --quiet ./idna-2.0-py3-none-any.whl ./traitlets-1.0-py3-none-any.whl 2>&1"
    )
    output = bench_with_seat.ssh("python -c 'import idna, traitlets; print(idna.__file__, traitlets.version)'")
    assert output.startswith("/home/student/.provisioner/python/2.10.0-")
    assert output.split()[1] == "1.0"
    bench_with_seat.on_node("docker", "restart", "-t", "5", "demo-student-jupyter-1")
    project = ("--project-directory", GENERATION, "-f", f"{GENERATION}/compose.yaml")
    bench_with_seat.on_node("docker", "compose", *project, "up", "-d", "--wait", "--wait-timeout", "60")
    assert request(bench_with_seat, "/api/status", TOKEN)[0] == 200


def test_the_gpu_check_computes_on_the_gpu_of_the_seat(bench_with_seat: Bench) -> None:
    check = bench_with_seat.on_node("cat", f"{GENERATION}/gpu_check.py")
    output = bench_with_seat.on_node("docker", "exec", "-i", "demo-student-ssh-1", "python3", "-", stdin=check)
    found = json.loads(output)
    assert (found["method"], found["ok"]) == ("torch", True)
    assert len(found["uuids"]) == 1


def test_compose_on_the_node_reads_the_file_as_it_was_rendered(bench_with_seat: Bench) -> None:
    read = ("docker", "compose", "-f", f"{GENERATION}/compose.yaml", "config", "--format", "json")
    ssh = json.loads(bench_with_seat.on_node(*read))["services"]["ssh"]
    assert ssh["cap_drop"] == ["ALL"]
    assert [port["host_ip"] for port in ssh["ports"]] == [bench_with_seat.lab.nodes[0].address]
    assert ssh["environment"]["ODD"] == ODD.replace("$", "$$")  # as compose escapes a literal $
