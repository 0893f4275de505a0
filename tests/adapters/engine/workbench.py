"""A lab with one node, a builder for its mirror and registry, and a seat that is started on the node by hand."""

import io
import subprocess
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from provisioner.adapters.engine.builder import LabImageBuilder
from provisioner.adapters.engine.course import CourseRequirements
from provisioner.adapters.engine.docker_engine import DockerEngine
from provisioner.adapters.registry.client import Registry
from provisioner.adapters.resources import templates
from provisioner.adapters.state.pushed_images import PushedImages
from provisioner.adapters.templates import read_templates
from provisioner.domain.lab.environments import ImageSettings
from provisioner.domain.lab.lab import Registry as RegistrySettings
from provisioner.domain.lab.lock import LockedImage
from provisioner.domain.seat.render import render
from provisioner.domain.seat.seat import Seat
from provisioner.domain.values.event import Event
from provisioner.domain.values.image import ImageFacts, TaggedImage
from provisioner.domain.values.limits import SeatLimits
from provisioner.domain.values.reference import ImageReference
from tests.domain.seats import a_seat
from tests.lab.bed import Lab, make_key
from tests.lab.host import run

PLAIN = ImageSettings(tools=False)  # the tools take a minute, and most tests do not need them
TOKEN = "5f" * 32
STATE = "/var/lib/provisioner/seats/demo-student"
GENERATION = f"{STATE}/gens/1"
STUDENT = 1000
PASSWD = f"root:x:0:0:root:/root:/bin/bash\nstudent:x:{STUDENT}:{STUDENT}::/home/student:/bin/bash\n"
GROUP = f"root:x:0:\nstudent:x:{STUDENT}:\n"
ODD = 'two  words, "quotes" \\ #not $HOME'


def facts(image: TaggedImage) -> ImageFacts:
    return ImageFacts(reference=image.reference, torch=(image.env or {}).get("PYTORCH_VERSION"))


@dataclass(frozen=True)
class File:
    """A file of a seat, with its mode and owner."""

    text: str
    mode: int = 0o644
    uid: int = 0
    gid: int = 0


@dataclass
class Bench:
    """Builds lab images and runs a seat. `events`: those of the last build."""

    lab: Lab
    events: list[Event] = field(default_factory=list)

    def lab_image(
        self, name: str, settings: ImageSettings = PLAIN, before_build: Callable[[], object] = lambda: None
    ) -> LockedImage:
        """Build the lab image of REPOSITORY:TAG of the mirror. `before_build` runs after the mirror was inspected."""
        self.events.clear()
        mirror, registry = self.lab.mirror.address, self.lab.registry.address
        with Registry(mirror, ca=self.lab.ca) as base_registry, Registry(registry, ca=self.lab.ca) as lab_registry:
            builder = LabImageBuilder(
                RegistrySettings(address=registry),
                {"default": settings},
                lookup=lab_registry,
                engine=partial(DockerEngine.connect, {}, self.events.append),
                records=PushedImages(self.lab.folder / "pushed_images"),
                courses=CourseRequirements(self.lab.folder, {}, "", self.events.append),
                templates=read_templates(templates()),
                facts=facts,
                on_event=self.events.append,
            )
            base = base_registry.inspect(ImageReference.parse(f"{mirror}/{name}"), "linux/amd64")
            before_build()
            return builder.lab_image(base, "default", lambda _: None)

    def steps(self) -> list[str]:
        """Return the steps of the last build: pulling, downloading, building, pushing."""
        return [event.text.split(" ", 1)[0] for event in self.events if event.kind == "started"]

    def as_student(self, image: str, script: str) -> str:
        """Run a script as the student in a new container on the outer engine."""
        user = ("--user", f"{STUDENT}:{STUDENT}")
        return self.lab.engine.docker("run", "--rm", *user, "--entrypoint", "sh", image, "-c", script)

    @property
    def node(self) -> str:
        return self.lab.nodes[0].container

    def on_node(self, *words: str, stdin: str | None = None) -> str:
        return self.lab.nodes[0].exec(*words, stdin=stdin)

    def seat(self, image: LockedImage) -> Seat:
        """Start a seat on the node as the node's own modules do, and wait until both services are healthy."""
        address = self.lab.nodes[0].address
        uuid = self.on_node("nvidia-smi", "-L").partition("UUID: ")[2].partition(")")[0]
        key = self.lab.key.with_suffix(".pub").read_text().strip()
        binds = {"ssh": address, "jupyter": address}
        seat = a_seat(gpus=(uuid,), authorized_keys=(key,), binds=binds, limits=SeatLimits())
        self._copy_files(seat, image)
        self.on_node("docker", "pull", "-q", image.lab)
        project = ("--project-directory", GENERATION, "-f", f"{GENERATION}/compose.yaml")
        self.on_node("docker", "compose", *project, "up", "-d", "--wait", "--wait-timeout", "90")
        return seat

    def _copy_files(self, seat: Seat, image: LockedImage) -> None:
        texts = read_templates(templates())
        own = texts["compose.yaml.j2"].replace("SHELL: /bin/bash", f"SHELL: /bin/bash\n      ODD: {{{{ {ODD!r} }}}}")
        bundle = render(seat, image, {**texts, "compose.yaml.j2": own})
        make_key(self.lab.folder / "host_key")
        files = {f"gens/1/{name}": File(text) for name, text in bundle.files.items()}
        files |= {"gens/1/passwd": File(PASSWD), "gens/1/group": File(GROUP)}
        files["identity/token"] = File(TOKEN, 0o400, STUDENT, STUDENT)
        private = (self.lab.folder / "host_key").read_text()
        files["identity/ssh_host_ed25519_key"] = File(private, 0o440, 0, STUDENT)
        self.on_node("mkdir", "-p", STATE, f"{STATE}/notice", seat.home)
        self.on_node("chown", f"{STUDENT}:{STUDENT}", seat.home)
        command = ["docker", "cp", "-", f"{self.node}:{STATE}"]
        subprocess.run(command, input=_tar(files), env=self.lab.engine.env(), check=True, capture_output=True)

    def ssh(self, command: str, *options: str) -> str:
        """Run a command over SSH as the student: the host key is known, and no other key is offered."""
        address = self.lab.nodes[0].address
        known = self.lab.folder / "seat_known_hosts"
        public = " ".join((self.lab.folder / "host_key.pub").read_text().split()[:2])
        known.write_text(f"[{address}]:22000 {public}\n")
        ssh_options = (
            "-F",
            "none",
            "-o",
            "BatchMode=yes",
            "-o",
            f"UserKnownHostsFile={known}",
            "-i",
            str(self.lab.key),
        )
        return run("ssh", *ssh_options, *options, "-p", "22000", f"student@{address}", command).stdout

    def put_in_home(self, path: Path) -> None:
        address, known = self.lab.nodes[0].address, self.lab.folder / "seat_known_hosts"
        ssh_options = (
            "-F",
            "none",
            "-q",
            "-o",
            "BatchMode=yes",
            "-o",
            f"UserKnownHostsFile={known}",
            "-i",
            str(self.lab.key),
        )
        run("scp", *ssh_options, "-P", "22000", str(path), f"student@{address}:")


def _tar(files: Mapping[str, File]) -> bytes:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name, file in files.items():
            content = file.text.encode()
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode, entry.uid, entry.gid = len(content), file.mode, file.uid, file.gid
            tar.addfile(entry, io.BytesIO(content))
    return archive.getvalue()
