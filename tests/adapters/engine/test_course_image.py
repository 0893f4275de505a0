"""A course's packages in images of a real engine, from this machine's own package index."""

import json
import re
from contextlib import closing
from pathlib import Path

import pytest

from provisioner.adapters.engine.base_image import BaseFacts
from provisioner.adapters.engine.course import CourseRequirements
from provisioner.adapters.engine.docker_engine import DockerEngine
from provisioner.adapters.engine.wheels import download_wheels, select_requirements
from provisioner.adapters.resources import templates
from provisioner.domain.values.problem import ProblemError
from tests.lab.engine import Engine
from tests.lab.tags import DEMO_TAGS

pytestmark = [pytest.mark.lab, pytest.mark.long("course")]

CONDA = next(tag.image for tag in DEMO_TAGS if tag.torch == "2.8.0")
SYSTEM = next(tag.image for tag in DEMO_TAGS if tag.torch == "2.10.0")
PACKAGES = ("tqdm", "einops", "tabulate", "pyyaml", "regex", "toml", "markdown", "jinja2", "networkx<3.5", "sympy")
LAB_REQUIREMENTS = (templates() / "requirements-lab.txt").read_text()
# The Dockerfile of the lab image, as far as it is about Python.
DOCKERFILE = """\
FROM {base} AS course
USER root
COPY lab /lab
RUN {make_env}
COPY course /course
RUN python3 /course/course_env.py /opt/provisioner/course /course
FROM {base}
COPY --from=course /opt/provisioner /opt/provisioner
RUN test -e /opt/provisioner/env || cp /opt/provisioner/course/provisioner.pth \\
    "$(python3 -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
ENV PATH=/opt/provisioner/env/bin:/opt/provisioner/course/bin:${{PATH}}
"""
SHOW = (
    "import einops, jinja2, json, networkx, sympy, torch, yaml; "
    "print(json.dumps([torch.__version__, torch.__file__, einops.__file__, networkx.__version__]))"
)


def base_facts(testbed: Engine, base: str, monkeypatch: pytest.MonkeyPatch) -> BaseFacts:
    for name, value in testbed.client_env().items():
        monkeypatch.setenv(name, value)
    with closing(DockerEngine.connect({}, lambda _: None)) as engine:
        return engine.base_facts(base, (templates() / "base_facts.py").read_text())


def courses(folder: Path, text: str) -> CourseRequirements:
    (folder / "environments/nlp").mkdir(parents=True, exist_ok=True)
    (folder / "environments/nlp/requirements.txt").write_text(text)
    return CourseRequirements(folder, {"nlp": "environments/nlp/requirements.txt"}, LAB_REQUIREMENTS, lambda _: None)


def fill(context: Path, folder: Path, facts: BaseFacts, *, with_env: bool) -> None:
    for name in ("lab", "course"):
        (context / name).mkdir()
    (context / "course/course_env.py").write_text((templates() / "course_env.py").read_text())
    asked = courses(folder, "\n".join(PACKAGES))
    asked.fill(context / "course", asked.resolve("nlp", "sha256:" + "0" * 64, facts), facts)
    if with_env:
        (context / "lab/lab_env.py").write_text((templates() / "lab_env.py").read_text())
        (context / "lab/requirements.txt").write_text(select_requirements(LAB_REQUIREMENTS, facts))
        download_wheels(context / "lab/requirements.txt", context / "lab/wheels", facts)
    else:
        (context / "lab/empty").touch()


@pytest.mark.parametrize(("base", "with_env"), [(SYSTEM, True), (CONDA, False)], ids=["system", "conda"])
def test_ten_packages_beside_the_bases_torch(
    testbed: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, base: str, with_env: bool
) -> None:
    facts = base_facts(testbed, base, monkeypatch)
    context, image = tmp_path / "context", "provisioner-test/course"
    context.mkdir()
    fill(context, tmp_path / "lab", facts, with_env=with_env)
    make_env = "python3 /lab/lab_env.py /opt/provisioner /lab" if with_env else "true"
    (context / "Dockerfile").write_text(DOCKERFILE.format(base=base, make_env=make_env))
    try:
        testbed.docker("build", "--quiet", "--tag", image, str(context))
        run = ("run", "--rm", "--user", "1000:1000", "--entrypoint", "sh", image, "-c")
        torch, file, einops, networkx = json.loads(testbed.docker(*run, f"python3 -c '{SHOW}'"))
        assert torch == facts.packages["torch"]
        assert not file.startswith("/opt/provisioner")
        assert einops.startswith("/opt/provisioner/course/lib/")
        assert networkx.startswith("3.4")
        first = testbed.docker(*run, 'head -1 "$(command -v tqdm)"').strip()
        assert first == ("#!/opt/provisioner/env/bin/python" if with_env else f"#!{facts.python}")
    finally:
        testbed.try_docker("rmi", "--force", image)


def test_a_real_package_for_another_torch_is_refused_with_both_names(
    testbed: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = base_facts(testbed, SYSTEM, monkeypatch)
    asked = courses(tmp_path, "tqdm\ntorchvision==0.26.0\n")
    with pytest.raises(ProblemError) as refused:
        asked.resolve("nlp", "sha256:" + "0" * 64, facts)
    (problem,) = refused.value.problems
    assert problem.code == "torch_conflict"
    assert "requirements.txt:2: torchvision==0.26.0" in problem.what
    assert "torch==2.10.0" in problem.what
    assert re.search(r"torchvision → torch", problem.what)
