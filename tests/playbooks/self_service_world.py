"""A node on which self-service is published and removed. The broker is a pid that runs or not.

It reads the configuration whenever it is asked, as the real one does, and is silent with one that it does not
understand.
"""

import grp
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.playbooks.broker_world import DOCUMENT, a_config, an_environment
from tests.playbooks.fake_engine import FakeEngine
from tests.playbooks.fake_nvml import a_gpu
from tests.playbooks.node_code import ProblemError, module_util
from tests.playbooks.orders import REFERENCE, NoJob
from tests.playbooks.world import FakeCompose

publishes, removals, daemons, verifications, units, images, layouts, installed, facts, command = (
    module_util(name)
    for name in (
        "self_service.publish",
        "self_service.removal",
        "self_service.daemon",
        "self_service.verify",
        "self_service.units",
        "self_service.image_check",
        "self_service.layout",
        "self_service.installed",
        "self_service.facts",
        "base.command",
    )
)
clients = module_util("self_service.client")
trials, precheck, proofs, busies, steps = (
    module_util(name) for name in ("docker.trial", "seat.precheck", "gpu.proof", "seat.busy", "transaction.remove")
)

GROUP = grp.getgrgid(65534).gr_name
CODE = {"provisioner/__init__.py": "", "provisioner/one.py": "x = 1\n", "provisioner/client/me.py": "import sys\n"}
PASSWD = "root:x:0:0:root:/root:/bin/bash\n"


def a_document(text: str) -> dict[str, Any]:
    """A document that differs from others in one file."""
    document: dict[str, Any] = json.loads(json.dumps(DOCUMENT))
    document["files"]["health.py"] = [text]
    return document


def other_reference(digit: str) -> str:
    return REFERENCE.replace("a" * 64, digit * 64)


class Site:
    """A node with systemd. `unreadable`: configurations, by their `node`, that the broker does not understand."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch, engine: FakeEngine) -> None:
        self.state_root, self.socket = str(root / "state"), str(root / "run/broker.sock")
        self.layout, self.engine = layouts.Layout(self.state_root), engine
        self.gpus = [a_gpu(uuid) for uuid in a_config()["pool"]]
        self.pid: int | None = None
        self.runs_from: dict[str, str] = {}
        self.unreadable: set[str] = set()
        self.calls: list[list[str]] = []
        self.codes: dict[str, int] = {}  # first word of a command -> its exit code
        self.programs = {"cron"}
        self.composes: dict[str, FakeCompose] = {}
        self.at_work: list[dict[str, Any]] = []  # processes on the GPU of the seats
        self.check: dict[str, Any] = {"ok": True, "skipped": [], "detail": "torch 2.8.0 computes on 1 GPUs"}
        for name in ("systemd", "units", "cron.d"):
            (root / name).mkdir()
        self.systemd, self.units, self.cron = root / "systemd", root / "units", root / "cron.d/provisioner-broker"
        self.client, self.python = root / "bin/provision", "/usr/bin/python3"
        engine.images[REFERENCE] = {"RootFS": {"Layers": []}}
        self._patch(monkeypatch)

    def _patch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, value in (("RUNNING", self.systemd), ("UNITS", self.units), ("CRON", self.cron)):
            monkeypatch.setattr(units, name, value)
        monkeypatch.setattr(clients, "CLIENT", self.client)
        monkeypatch.setattr(clients, "python_path", lambda: self.python)
        monkeypatch.setattr(units, "shutil", SimpleNamespace(which=lambda name: name in self.programs or None))
        for module in (daemons, images, trials):
            monkeypatch.setattr(module, "run", self.run)
        for module in (daemons, installed, facts):
            monkeypatch.setattr(module, "broker_pid", lambda _: self.pid)
        monkeypatch.setattr(daemons, "os", SimpleNamespace(kill=self._kill))
        monkeypatch.setattr(verifications, "ask", self.ask)
        monkeypatch.setattr(verifications, "_check_rights", lambda *_: None)
        monkeypatch.setattr(verifications, "_connect_as", lambda _, gid: "" if gid == 65534 else "refused")
        monkeypatch.setattr(verifications, "SECONDS", 0)
        monkeypatch.setattr(precheck, "compose_version", lambda: "2.26.1")
        for module in (removals, steps):
            monkeypatch.setattr(module, "Compose", self.compose)
        monkeypatch.setattr(busies, "kernel_use", lambda _: [])
        monkeypatch.setattr(busies, "query_nvml", lambda: {"gpus": [a_gpu("GPU-1", processes=self.at_work)]})
        for module in (images, proofs):
            monkeypatch.setattr(module, "query_nvml", lambda: {"driver": "570.172.08", "gpus": self.gpus})

    def compose(self, seat: Any, _: Any) -> FakeCompose:
        """The containers of a seat, which run until they are removed."""
        return self.composes.setdefault(seat.name, FakeCompose(seat, 1))

    def run(self, argv: list[str], *_: Any, **__: Any) -> Any:
        self.calls.append(argv)
        code = self.codes.get(argv[0], 0)
        if argv[0] == "docker":
            return command.CommandResult(code, self._of_docker(argv), "")
        starts = argv[0] in {"sh", "systemd-run"} or argv[:2] == ["systemctl", "start"]
        if starts and not code:
            self.pid, self.runs_from = 4000 + len(self.calls), self.program()
        elif argv[:2] == ["systemctl", "stop"]:
            self.pid = None
        return command.CommandResult(code, "", "it failed" if code else "")

    def _of_docker(self, argv: list[str]) -> str:
        if argv[-1] == "-":
            uuid = argv[argv.index("--gpus") + 1].partition("=")[2]
            return json.dumps({"method": "torch", "uuids": [uuid], **self.check})
        return f"{PASSWD}{trials.MARK}root:x:0:\n" if argv[-1] == "/etc/group" else ""

    def _kill(self, _pid: int, _number: int) -> None:
        self.pid = None

    def ask(self, _path: str, _verb: str) -> dict[str, Any]:
        config = self.config()
        if self.pid is None or not config or config["node"] in self.unreadable:
            raise ProblemError("broker_silent", "it does not answer", "why", "fix")
        names = config["environments"].items()
        return {"environments": [{"name": name, "version": one["version"]} for name, one in names]}

    def program(self) -> dict[str, str]:
        """The files of the program on disk, without what was compiled."""
        found = [path for path in self.layout.program.rglob("*") if path.is_file() and path.suffix != ".pyc"]
        return {str(path.relative_to(self.layout.program)): path.read_text() for path in found}

    def config(self) -> dict[str, Any]:
        """The configuration on disk, empty without one."""
        return json.loads(self.layout.config.read_text()) if self.layout.config.exists() else {}

    def order(self, text: str = "1", **over: Any) -> dict[str, Any]:
        """An order that publishes one document. `over`: keys of the configuration, or version, run and claim."""
        document = a_document(text)
        head: dict[str, Any] = {name: over.pop(name) for name in ("version", "run", "claim") if name in over}
        config = a_config(unix_group=GROUP, environments={"default": an_environment(document)})
        return {
            "run": "r1",
            "state_root": self.state_root,
            "claim": None,
            "act": "publish",
            "version": "0.2.0",
            "socket": self.socket,
            "config": {**config, **over},
            "documents": {"default": document},
            **head,
        }

    def publish(self, text: str = "1", code: dict[str, str] = CODE, **over: Any) -> dict[str, Any]:
        order = self.order(text, **over)
        module_util("jobs.node_jobs").NodeJobs(self.state_root, "self_service").make_folders()
        record: dict[str, Any] = publishes.publish(order, NoJob(), code)
        return record

    def publish_environments(self, *names: str, **over: Any) -> dict[str, Any]:
        """Publish an environment of each of these names; its document has the name as its text."""
        order = self.order(environments={name: an_environment(a_document(name)) for name in names}, **over)
        order["documents"] = {name: a_document(name) for name in names}
        module_util("jobs.node_jobs").NodeJobs(self.state_root, "self_service").make_folders()
        record: dict[str, Any] = publishes.publish(order, NoJob(), CODE)
        return record

    def remove(self, **over: Any) -> dict[str, Any]:
        order = {"run": "r9", "state_root": self.state_root, "claim": None, "act": "remove", "socket": self.socket}
        record: dict[str, Any] = removals.remove({**order, **over}, NoJob())
        return record

    def version(self, text: str = "1") -> str:
        return str(an_environment(a_document(text))["version"])

    def starts(self) -> int:
        """How often the broker was started."""
        words = [argv[:2] for argv in self.calls]
        return sum(argv[0] in {"sh", "systemd-run"} or argv == ["systemctl", "start"] for argv in words)

    def tags(self) -> set[str]:
        return {tag for image in self.engine.images.values() for tag in image.get("RepoTags", ())}
