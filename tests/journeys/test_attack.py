"""A hostile home, hostile images, a hostile registry and a lying machine, all in one upgrade: the others are upgraded.

The exit code and the report name each of them.
"""

import itertools
import json
import re
import ssl
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import yaml

from tests.adapters.ansible.lies import valid_facts
from tests.adapters.registry.scripted_registry import API, Answer, ReceivedRequest, ScriptedRegistry, served
from tests.journeys.conftest import COMPLETE, QUICK, Site, running_site
from tests.lab import pki
from tests.lab.engine import Engine
from tests.lab.node import Node

pytestmark = [pytest.mark.lab, pytest.mark.long("attack")]

OLD, NEW = "2.8.0", "2.10.0"
# Images newer than NEW, each with a setting for which it is never chosen: tag -> line of its Dockerfile, problem.
HOSTILE_IMAGES = {
    "2.14.1-cuda12.6-cudnn9-runtime": ("ENV PYTORCH_VERSION=2.14.1 LD_PRELOAD=/evil.so", "unsafe_environment"),
    "2.12.1-cuda12.9-cudnn9-runtime": ("ENV PYTORCH_VERSION=2.12.1 LD_AUDIT=/evil.so", "unsafe_environment"),
    "2.11.0-cuda12.8-cudnn9-runtime": ("ENV PYTORCH_VERSION=2.11.0\nVOLUME /home /etc/provisioner", "image_volume"),
}
# The image that is chosen floods every output, and its labels say that it is ours.
FLOOD = (
    'ENTRYPOINT ["sh", "-c", "yes flood; exit 1"]\nCMD ["yes"]\n'
    "LABEL provisioner.inputs=0000 provisioner.seat=demo-student provisioner.lab=demo"
)
EXIT = "import os; os._exit(7)\n"
# What shells, Python, Jupyter, ssh, curl, git and Docker read in a home.
HOSTILE_HOME: Mapping[str, str] = {
    **dict.fromkeys((".bashrc", ".profile", ".bash_profile", ".bash_login", ".bash_logout"), "exit 7\n"),
    **dict.fromkeys((".zshrc", ".zshenv"), "exit 7\n"),
    ".ssh/rc": "kill -9 $PPID; exit 7\n",
    ".ssh/environment": "LD_PRELOAD=/evil.so\n",
    ".ssh/config": "Host *\n  ProxyCommand false\n",
    ".pam_environment": "LD_PRELOAD DEFAULT=/evil.so\n",
    ".inputrc": "set editing-mode vi\n" * 10_000,
    "{site}/usercustomize.py": EXIT,
    "{site}/sitecustomize.py": EXIT,
    "{site}/evil.pth": EXIT,
    "{site}/torch.py": EXIT,
    "{site}/json.py": EXIT,
    ".jupyter/jupyter_server_config.py": EXIT,
    ".jupyter/jupyter_server_config.json": "{" * 10_000,
    ".jupyter/jupyter_lab_config.py": "c.ServerApp.token = ''\nc.ServerApp.port = 1\n",
    ".ipython/profile_default/startup/00.py": EXIT,
    ".local/bin/python": "#!/bin/sh\nexit 7\n",
    ".local/bin/python3": "#!/bin/sh\nexit 7\n",
    ".local/bin/nvidia-smi": "#!/bin/sh\nyes\n",
    ".config/pip/pip.conf": "[global]\nindex-url = http://198.18.255.1/\n",
    ".config/git/config": "[core]\n  fsmonitor = false\n",
    ".netrc": "default login evil password evil\n",
    ".curlrc": "proxy = http://198.18.255.1\n",
    ".docker/config.json": '{"credsStore": "evil"}',
}  # fmt: skip
WRITE_HOME = """
import json, os, site, sys
old = site.getuserbase()
new = site.getusersitepackages().replace(old, os.path.join(os.path.dirname(old), NEXT))
for name, text in json.load(sys.stdin).items():
    path = os.path.join(os.path.expanduser("~"), name.replace("{site}", new))
    os.makedirs(os.path.dirname(path), exist_ok=True)
    open(path, "w").write(text)
    os.chmod(path, 0o755)
os.mkfifo(os.path.expanduser("~/.ssh/authorized_keys"))
os.makedirs(os.path.expanduser("~/.ssh/known_hosts"))
os.symlink("loop", os.path.expanduser("~/loop"))
"""
LIES = {
    "null": json.dumps({"changed": False, "facts": None, "clock": 0.0}),
    "fence": json.dumps(
        {"changed": False, "facts": valid_facts().model_dump(mode="json") | {"fence": 10**4299}, "clock": 0.0}
    ),
    "huge": "x" * 5_000_000,
}


@pytest.fixture(scope="module")
def site(testbed: Engine, program: Path) -> Iterator[Site]:
    """Two seats with the old torch; the third machine has none yet."""
    image = COMPLETE | {"torch": OLD}
    with running_site(testbed, program, ["rtx4090-570"] * 3, bases=[OLD, NEW], image=image) as site:
        result = site.run_json("rollout", "--yes", "--limit", "node1,node2")
        assert result.code == 0, result.output
        yield site


def push_hostile_images(site: Site) -> None:
    engine = site.lab.engine
    lines = {tag: line for tag, (line, _) in HOSTILE_IMAGES.items()} | {f"{NEW}-cuda12.8-cudnn9-runtime": FLOOD}
    for tag, line in lines.items():
        name = f"lab/hostile-{site.lab.prefix}:{tag}"
        engine.docker("build", "-q", "-t", name, "-", stdin=f"FROM lab/base:{NEW}\n{line}\n")
        site.lab.mirror.push(name, f"pytorch/pytorch:{tag}")
        engine.docker("rmi", name)


def make_home_hostile(site: Site, node: Node) -> None:
    """Write the files; those of Python into the folder that it reads with the next image, whose digest is no secret."""
    digest = site.lab.mirror.digest(f"pytorch/pytorch:{NEW}-cuda12.8-cudnn9-runtime").partition(":")[2]
    container = node.exec("sh", "-c", "docker ps -q --filter label=provisioner.service=ssh")
    script = f"NEXT = '{NEW}-{digest[:12]}'\n{WRITE_HOME}"
    node.exec("docker", "exec", "-i", container, "python3", "-c", script, stdin=json.dumps(HOSTILE_HOME))


def add_lying_nodes(site: Site) -> None:
    """Add three nodes to the inventory: the third machine, whose Python prints a lie instead of what modules print."""
    machine = site.lab.node("node3")
    inventory = yaml.safe_load((site.folder / "hosts.yml").read_text())
    hosts = inventory["nodes"]["hosts"]
    del hosts["node3"]
    for name, lie in LIES.items():
        machine.exec("sh", "-c", f"cat > /opt/{name}.json", stdin=lie)
        python = f"/usr/local/bin/python-{name}"
        script = f"#!/bin/sh\ncat >/dev/null\ncat /opt/{name}.json\n"
        machine.exec("sh", "-c", f"cat > {python}; chmod 755 {python}", stdin=script)
        hosts[f"liar-{name}"] = {"ansible_host": machine.address, "ansible_python_interpreter": python}
    (site.folder / "hosts.yml").write_text(yaml.safe_dump(inventory))


@pytest.fixture
def upstream(site: Site, tmp_path: Path) -> Iterator[ScriptedRegistry]:
    """A registry whose list of tags never ends, and which redirects to http and sends other bytes than asked for."""
    pages = itertools.count()

    def endless(asked: ReceivedRequest) -> Answer | None:
        if "/tags/list" not in asked.path:
            return None
        page = next(pages)
        tags = json.dumps({"tags": [f"{page}.{minor}.0-cuda12.8-cudnn9-runtime" for minor in range(200)]})
        link = {"Link": f'<{asked.path.partition("?")[0]}?last={page}>; rel="next"'}
        return Answer(200, API | link, tags.encode())

    def wrong(asked: ReceivedRequest) -> Answer | None:
        if asked.path == "/v2/":
            return None
        if "/manifests/sha256:" in asked.path:
            return Answer(307, {"Location": f"http://127.0.0.1:9{asked.path}"})
        return Answer(200, API | {"Docker-Content-Digest": f"sha256:{'0' * 64}"}, b"{}", drip=0.2, drip_head=0.01)

    pki.issue(site.lab.engine.root, tmp_path / "server", ["IP:127.0.0.1"])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server/server.crt", tmp_path / "server/server.key")
    with served(ScriptedRegistry(endless, wrong), tls=context) as registry:
        yield registry


def use_upstream(site: Site, registry: ScriptedRegistry) -> None:
    path = site.folder / "lab.yml"
    settings = yaml.safe_load(path.read_text())
    settings["mirror"]["upstream"] = {"address": registry.host, "ca": str(site.lab.ca)}
    settings["rollout"] = QUICK
    path.write_text(yaml.safe_dump(settings))


def test_what_is_hostile_is_named_and_the_other_nodes_are_upgraded(site: Site, upstream: ScriptedRegistry) -> None:
    push_hostile_images(site)
    make_home_hostile(site, site.lab.node("node2"))
    add_lying_nodes(site)
    use_upstream(site, upstream)
    options = ("--torch", ">=2.9", "--yes", "--leave-behind", "--allow-unreachable", str(len(LIES)))
    result = site.run_json("upgrade", *options)
    states = {record["node"]: record["state"] for record in result.document["nodes"]}
    problems = {record["node"]: [p["code"] for p in record["problems"]] for record in result.document["nodes"]}
    assert result.code == 1
    assert states == {"node1": "committed", "node2": "committed", **{f"liar-{name}": "skipped" for name in LIES}}
    assert problems == {"node1": [], "node2": ["home_fault"], **{f"liar-{name}": ["module_failed"] for name in LIES}}
    assert f"{NEW}-cuda12.8-cudnn9-runtime" in result.document["image"]
    assert "the mirror's tags are not compared with upstream" in result.output
    assert upstream.asked


def test_each_hostile_image_is_refused_with_its_reason(site: Site) -> None:
    done = site.command.run("lock", str(site.folder), "--torch", ">=2.9")
    assert {problem for _, problem in HOSTILE_IMAGES.values()} <= set(re.findall(r"\w+", done.stdout + done.stderr))
