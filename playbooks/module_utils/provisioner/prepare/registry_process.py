"""The two processes of a managed registry, which share one store.

Nodes read from the first, by the lab's address; it has no login and refuses every change. The control machine pushes to
the second, on another port, with a login. The first is the service of the distribution's package, the second is ours.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import socket
import time
from http import HTTPStatus
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Callable, NamedTuple

from ansible.module_utils.provisioner.base.command import run
from ansible.module_utils.provisioner.base.files import read, read_record, write_atomic
from ansible.module_utils.provisioner.base.problem import ProblemError, io_problem
from ansible.module_utils.provisioner.docker import daemon
from ansible.module_utils.provisioner.prepare import ca as tls
from ansible.module_utils.provisioner.prepare.registry_check import ask

PROGRAM = "/usr/bin/docker-registry"
ACCOUNT = "docker-registry"
FOLDER = Path("/etc/docker/registry")
LOGINS = FOLDER / "htpasswd"
STORAGE = Path("/var/lib/docker-registry")
UNITS, INIT_SCRIPTS = Path("/etc/systemd/system"), Path("/etc/init.d")
RUNLEVEL = Path("/etc/rc2.d")  # links to what starts at boot
MARK = "# Written by provision prepare; what is changed here by hand is written over.\n"  # also marks the file as ours
PORT = re.compile(r":(\d+)$")
START_SECONDS = STOP_SECONDS = 30


class RegistryProcess(NamedTuple):
    """One of the two services. `started`: what it was started with. `pid_file`: written by its init script."""

    service: str
    purpose: str
    configuration: Path
    started: Path
    pid_file: Path
    find_fault: Callable[[str], str]  # why it does not serve as it should at this address, empty if it does


def _find_reader_fault(address: str) -> str:
    status = ask(_access(address), "POST", "provisioner/check/blobs/uploads/")
    return "" if status == HTTPStatus.METHOD_NOT_ALLOWED else f"it answers HTTP {status} to a push"


def _find_pusher_fault(address: str) -> str:
    status = ask(_access(address))
    return "" if status == HTTPStatus.UNAUTHORIZED else f"it answers HTTP {status} without a login"


READER = RegistryProcess(
    service="docker-registry",
    purpose="serves nodes",
    configuration=FOLDER / "config.yml",
    started=tls.FOLDER / "started",
    pid_file=Path("/var/run/docker-registry.pid"),
    find_fault=_find_reader_fault,
)
PUSHER = RegistryProcess(
    service="provisioner-registry-push",
    purpose="takes pushes",
    configuration=FOLDER / "push.yml",
    started=tls.FOLDER / "push_started",
    pid_file=Path("/var/run/provisioner-registry-push.pid"),
    find_fault=_find_pusher_fault,
)


def reader_configuration(address: str) -> str:
    """Return the configuration of the process that nodes read from. It listens on all of this host's addresses."""
    # Uploads that were broken off are removed by the process that takes pushes.
    storage = "maintenance: {readonly: {enabled: true}, uploadpurging: {enabled: false}}"
    return _configuration(storage, _listen(f":{host_and_port(address)[1]}"))


def pusher_configuration(address: str) -> str:
    """Return the configuration of the process that takes pushes at `address`."""
    host, port = host_and_port(address)
    login = f"auth:\n  htpasswd: {{realm: provisioner, path: {LOGINS}}}\n"
    return _configuration("delete: {enabled: false}", _listen(f"{_own_address(host)}:{port}")) + login


def removal_configuration(path: Path) -> str:
    """Return the configuration of a process that removes images, behind the socket `path` of this host."""
    return _configuration("delete: {enabled: true}", f"net: unix\n  addr: {path}\n")


def _listen(where: str) -> str:
    return f"""addr: "{where}"
  tls:
    certificate: {tls.FOLDER}/server.crt
    key: {tls.FOLDER}/server.key
"""


def _configuration(storage: str, http: str) -> str:
    """Return a configuration without a descriptor cache.

    With one, a registry reports a damaged layer as present, and one process does not see what the other has changed.
    """
    return f"""{MARK}version: 0.1
log:
  accesslog: {{disabled: false}}
  fields: {{service: registry}}
storage:
  filesystem: {{rootdirectory: {STORAGE}}}
  {storage}
http:
  {http}\
  headers: {{X-Content-Type-Options: [nosniff]}}
health:
  storagedriver: {{enabled: true, interval: 10s, threshold: 3}}
"""


def host_and_port(address: str) -> tuple[str, int]:
    """Split a registry address; the default port is 443."""
    found = PORT.search(address)
    return (address[: found.start()], int(found.group(1))) if found else (address, 443)


def _own_address(host: str) -> str:
    """Return `host` where it is an address of this host, else an empty string, which stands for all addresses.

    It is none of this host's own behind NAT; and what a name stands for may change before the next boot.
    """
    try:
        address = ip_address(host.strip("[]"))
        family = socket.AF_INET if address.version == 4 else socket.AF_INET6  # noqa: PLR2004  (IPv4)
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind((str(address), 0))
    except (OSError, ValueError):
        return ""
    return host


def _access(address: str) -> dict[str, Any]:
    return {"address": address, "ca": tls.read_ca(), "plain_http": False}


def find_fault(process: RegistryProcess, address: str) -> str:
    """Return why a process does not serve as it should at `address`, an empty string if it does."""
    try:
        return process.find_fault(address)
    except (OSError, ValueError) as error:
        return str(getattr(error, "reason", error))


def is_serving(process: RegistryProcess, address: str) -> bool:
    """Return whether a process runs with its current configuration and certificate, and serves as it should."""
    return read(process.started) == _fingerprint(process) and not find_fault(process, address)


def _fingerprint(process: RegistryProcess) -> str:
    text = read(process.configuration) + read(tls.FOLDER / "server.crt")
    return hashlib.sha256(text.encode()).hexdigest()


def start(process: RegistryProcess, address: str) -> None:
    """Start a process with its current configuration. Raises ProblemError `registry_silent`."""
    stop(process)
    daemon.control_service(process.service, "start")
    deadline = time.monotonic() + START_SECONDS
    while fault := find_fault(process, address):
        if time.monotonic() > deadline:
            raise _silent(process, address, fault)
        time.sleep(0.5)
    write_atomic(process.started, _fingerprint(process), 0o644)


def stop(process: RegistryProcess) -> None:
    """Stop a process and wait for its end: an init script returns as soon as it has sent the signal."""
    if daemon.SYSTEMD.is_dir():
        daemon.control_service(process.service, "stop")
        return
    running = Path("/proc") / (read(process.pid_file).strip() or "none")
    run(["service", process.service, "stop"], daemon.SERVICE_SECONDS)  # fails when it is not running
    deadline = time.monotonic() + STOP_SECONDS
    while running.exists() and time.monotonic() < deadline:
        time.sleep(0.1)


def has_login(entry: str) -> bool:
    """Return whether the registry can read this line (USER:HASH) in the file of logins.

    Raises ProblemError `io_error`.
    """
    return bool(entry) and entry in read_record(LOGINS).split("\n") and _owns_logins()


def _owns_logins() -> bool:
    try:
        return LOGINS.owner() == ACCOUNT
    except (OSError, KeyError):  # the owner has no name, such as an account that was removed with the package
        return False


def add_login(entry: str) -> None:
    """Add a line to the file of logins, in place of one for the same user; those of other control machines stay.

    The registry reads the file again when it changes. Raises ProblemError `io_error`.
    """
    user = entry.partition(":")[0]
    kept = [line for line in read_record(LOGINS).split("\n") if line and line.partition(":")[0] != user]
    try:
        write_atomic(LOGINS, "\n".join([*kept, entry, ""]), 0o600)
        shutil.chown(str(LOGINS), ACCOUNT)
    except OSError as error:
        raise io_problem(error) from None


def has_service() -> bool:
    """Return whether the service of the process that takes pushes is installed as it should be."""
    path, text, _ = _service()
    return read(path) == text and (daemon.SYSTEMD.is_dir() or any(RUNLEVEL.glob(f"S*{PUSHER.service}")))


def install_service() -> None:
    """Install the service of the process that takes pushes, without starting it."""
    path, text, mode = _service()
    write_atomic(path, text, mode)
    if not daemon.SYSTEMD.is_dir():
        run(["update-rc.d", PUSHER.service, "defaults"], daemon.SERVICE_SECONDS)


def _service() -> tuple[Path, str, int]:
    """Return path, text and mode of the unit of systemd, or of the init script."""
    words = {"program": PROGRAM, "account": ACCOUNT, "configuration": PUSHER.configuration, "service": PUSHER.service}
    if daemon.SYSTEMD.is_dir():
        return UNITS / f"{PUSHER.service}.service", UNIT.format(**words), 0o644
    return INIT_SCRIPTS / PUSHER.service, INIT_SCRIPT.format(**words, pid_file=PUSHER.pid_file), 0o755


UNIT = """\
[Unit]
Description=Registry of provisioner for pushes of the control machine
Wants=network-online.target
After=network-online.target

[Service]
User={account}
ExecStart={program} serve {configuration}
Restart=on-failure
RestartSec=5

[Install]
WantedBy=multi-user.target
"""
INIT_SCRIPT = """\
#!/bin/sh
### BEGIN INIT INFO
# Provides:           {service}
# Required-Start:     $syslog $remote_fs $network
# Required-Stop:      $syslog $remote_fs
# Default-Start:      2 3 4 5
# Default-Stop:       0 1 6
# Short-Description:  Registry of provisioner for pushes of the control machine
### END INIT INFO
set -e
case "$1" in
start)
  start-stop-daemon --start --oknodo --background --no-close --chuid {account} --exec {program} \\
    --pidfile {pid_file} --make-pidfile -- serve {configuration} >>/var/log/{service}.log 2>&1
  ;;
stop) start-stop-daemon --stop --pidfile {pid_file} ;;
restart | force-reload)
  start-stop-daemon --stop --oknodo --retry 30 --pidfile {pid_file}
  "$0" start
  ;;
status) start-stop-daemon --status --pidfile {pid_file} --exec {program} ;;
*)
  echo "usage: $0 {{start|stop|restart|status}}" >&2
  exit 1
  ;;
esac
"""


def _silent(process: RegistryProcess, address: str, fault: str) -> ProblemError:
    return ProblemError(
        "registry_silent",
        f"the registry that {process.purpose}, at {address}, was started but does not serve: {fault}",
        "nodes read from one process of the registry, and the control machine pushes to the other",
        f"check on its host: journalctl -u {process.service}, or /var/log/{process.service}.log; that its address is "
        "this host's; that its port is free (ss -ltn). registry.push_port in lab.yml sets another port for pushes",
    )
