"""Keeps the leases of a node: takes the steps of lease/tick.py, writes them to disk and carries out what follows.

A lease is on disk before anything of its seat starts, and a seat has stopped before its lease is gone.
"""

from __future__ import annotations

import contextlib
import math
import subprocess
import time
from typing import Any, Callable, Iterable, Mapping, Protocol

from ansible.module_utils.provisioner.admin.usage_file import UsageFile
from ansible.module_utils.provisioner.base.files import read, write_atomic
from ansible.module_utils.provisioner.base.host import boot_id
from ansible.module_utils.provisioner.base.problem import ProblemError
from ansible.module_utils.provisioner.broker.config import ConfigFile
from ansible.module_utils.provisioner.broker.seat_job import STOPPED
from ansible.module_utils.provisioner.broker.store import Store
from ansible.module_utils.provisioner.jobs.jobfile import follow, job_path, read_job
from ansible.module_utils.provisioner.lease.state import Lease, LeaseState, Moment, SeatJob
from ansible.module_utils.provisioner.lease.tick import Action, Seen, job_ended, tick
from ansible.module_utils.provisioner.seat.notice import FOLDER, LEASE_FILE, make_notice_folder
from ansible.module_utils.provisioner.seat.seat import SELF_SERVICE, Seat

MOST_SHOWN = 5  # problems of a job that has ended
ENDS_SOON = """\
您的座位还有 {minutes} 分钟到期，到期后会停止，文件保留。要延长：provision me renew
Your seat ends in {minutes} minutes; it stops then, and your files stay. To prolong it: provision me renew
"""  # noqa: RUF001  (Chinese punctuation)
HAS_ENDED = """\
您的座位已到期，{grace} 分钟后停止，文件保留。请保存工作，或延长：provision me renew
The time of your seat is over; it stops in {grace} minutes, and your files stay. Save your work, or prolong it: \
provision me renew
"""  # noqa: RUF001  (Chinese punctuation)
IS_RELEASED = """\
管理员收回您的座位，{grace} 分钟后停止，文件保留。请保存工作。原因：{reason}
The admin takes your seat back; it stops in {grace} minutes, and your files stay. Save your work. Reason: {reason}
"""  # noqa: RUF001  (Chinese punctuation)

NEW_VERSION = """\
您的环境有新版本。要用它重新启动座位：provision me upgrade --now
There is a new version of your environment. To restart your seat with it: provision me upgrade --now
"""  # noqa: RUF001  (Chinese punctuation)


class Process(Protocol):
    """A process that was started; `poll` returns its exit code, None while it runs."""

    def poll(self) -> int | None:
        """Return the exit code, None while it runs."""


class _NotStarted:
    """A process for which the node had no memory."""

    def poll(self) -> int:
        """Return an exit code that no program has."""
        return -1


# Starts the program of a job with these words: kind, run, seat, path of its order.
Launch = Callable[[str, str, str, str], Process]


def read_moment() -> Moment:
    """Return the boot and CLOCK_BOOTTIME."""
    return Moment(boot_id(), time.clock_gettime(time.CLOCK_BOOTTIME))


class Keeper:
    """The leases of a node in memory and on disk, and the jobs that change its seats."""

    def __init__(self, state_root: str, launch: Launch, clock: Callable[[], Moment] = read_moment) -> None:
        """Take over what a broker before this one has left. Raises OSError."""
        self.state_root, self._launch, self.clock = state_root, launch, clock
        self.store, self.config = Store(state_root), ConfigFile(state_root)
        self.usage = UsageFile(self.store.folder / "usage")
        moment = clock()
        self.state = self.store.read_leases() or LeaseState(tick=moment, sampled=moment.boottime)
        self.ended: dict[str, dict[str, Any]] = {}  # the record of the last job of a seat
        self.kernels: Mapping[str, Any] = {}  # what those of each seat did at the last look
        self.changes = 0  # of seats, by their jobs: what was looked at before may be wrong since
        self._processes: dict[str, Process] = {}
        self._people: dict[str, str] = {}  # lease -> person
        self.store.forget_other_orders({job.run for job in self.state.jobs.values()})

    def seat(self, name: str) -> Seat:
        """Return a seat of the node."""
        return Seat(self.state_root, name)

    def save(self, state: LeaseState) -> None:
        """Take a state that has to be on disk before anything follows. Raises ProblemError `io_error`."""
        self.store.write_leases(state)
        self.state = state

    def accept(self, state: LeaseState) -> None:
        """Take a state that counts also where the disk is full: nothing is started because of it."""
        is_end = not self.state.leases.keys() <= state.leases.keys()
        self.state = state
        with contextlib.suppress(ProblemError):
            self.store.write_leases(state, is_end=is_end)

    def tick(self, seen: Seen | None = None) -> None:
        """Let time pass until now, and do what follows from it."""
        before = self.state
        state, actions = tick(before, self.clock(), seen, self.config.pool())
        self._count(before, state, seen)
        self.accept(state)
        if seen is not None:
            self.kernels = seen.kernels
            self._forget_refusals(seen.running or frozenset())
            self.store.renew_reserve()
        for action in actions:
            self._act(action)
        if seen is not None:
            self._announce_versions()

    def _count(self, before: LeaseState, after: LeaseState, seen: Seen | None) -> None:
        """Count who has held and used which GPU since the state before."""
        self._people = {lease.id: self._people.get(lease.id) or self._person(lease) for lease in before.leases.values()}
        people = {lease.seat: self._people[lease.id] for lease in before.leases.values()}
        self.usage.passed(before, after, people)
        if seen is not None:
            self.usage.looked(before, seen.used, after.tick.boottime - before.sampled)
        self.usage.write(after.tick.boottime)

    def _person(self, lease: Lease) -> str:
        return str(self.wanted(lease.seat).get("person", ""))

    def wanted(self, name: str) -> dict[str, Any]:
        """Return a seat as its current order has it, before there is one as its first one; nothing without records."""
        seat = self.seat(name)
        try:
            number = seat.current()
            if number:
                return dict(seat.order(number)["seat"])
        except (ProblemError, OSError):
            return {}
        first = (order["seat"] for order in self.store.read_orders() if order["seat"].get("name") == name)
        return next(map(dict, first), {})

    def _act(self, action: Action) -> None:
        if action.kind == "job":
            self.begin(action.seat)
        else:
            self._show_notice(action)

    def start(self, state: LeaseState, seat: str, order: dict[str, Any]) -> None:
        """Take a state with a new job of a seat, and begin it. Raises ProblemError; then nothing was changed."""
        run = state.jobs[seat].run
        self.store.write_order(run, order)
        try:
            self.save(state)
        except ProblemError:
            self.store.forget_order(run)
            raise
        self.begin(seat)

    def begin(self, seat: str) -> None:
        """Begin the job of a seat. A job that was killed before left a file, which is removed."""
        job = self.state.jobs[seat]
        self.changes += 1
        if job.kind == "stop" and not self._is_own(seat):
            self._end(seat, {"state": "unchanged"})
            return
        if job.kind == "resume" and not self._fits(seat):
            self._end(seat, {"state": "failed", "problems": []})
            return
        with contextlib.suppress(OSError):
            job_path(self.seat(seat), job.run, job.kind).unlink()
        self._note_intent(seat, job)
        try:
            self._processes[job.run] = self._launch(job.kind, job.run, seat, str(self.store.order_path(job.run)))
        except OSError:
            self._processes[job.run] = _NotStarted()

    def _is_own(self, name: str) -> bool:
        """Return whether a seat may be stopped: it is not one that the control machine has set up.

        One whose records are damaged counts as the broker's own.
        """
        seat = self.seat(name)
        try:
            number = seat.current()
            return not number or seat.order(number)["seat"].get("kind") == SELF_SERVICE
        except ProblemError:
            return True

    def _fits(self, name: str) -> bool:
        """Return whether a seat may be started again: it has the GPUs of its lease, and is not meant to be down.

        The control machine may have changed it.
        """
        seat = self.seat(name)
        try:
            wanted = seat.order(seat.current())["seat"]
        except ProblemError:
            return False
        return not seat.is_wanted_down() and any(
            set(lease.gpus) == set(wanted["gpus"]) for lease in self.state.of_seat(name)
        )

    def _note_intent(self, seat: str, job: SeatJob) -> None:
        leases = self.state.of_seat(seat)
        why = next((lease.why for lease in leases if lease.why), f"uid {job.uid}")
        why = next((f"admin: {lease.released}" for lease in leases if lease.why and lease.released), why)
        if job.kind in ("stop", "up", "resume"):
            folder = self.seat(seat)
            with contextlib.suppress(OSError):
                folder.make_folders()
                folder.write_intent("down" if job.kind == "stop" else "up", why)

    def poll(self) -> bool:
        """Look at the jobs; return whether one has ended."""
        found = {seat: self._record(seat, job) for seat, job in self.state.jobs.items()}
        ended = {seat: record for seat, record in found.items() if record}
        if ended:
            self.tick()  # a lease that begins now does not get shorter by the time before
            for seat, record in ended.items():
                self._end(seat, record)
            self.tick()
        return bool(ended)

    def _record(self, seat: str, job: SeatJob) -> dict[str, Any] | None:
        """Return the record of a job that has ended, None while it runs."""
        path = job_path(self.seat(seat), job.run, job.kind)
        process = self._processes.get(job.run)
        if path.exists():
            found = follow(path, 0)
            return dict(found["record"]) if found["finished"] else None
        if process is None:  # a broker before this one was killed at about the time it began the job
            self.begin(seat)
            return None
        code = process.poll()
        if code is None or path.exists():
            return None
        return {"state": "committed"} if code == STOPPED else self.store.fault(job.run) or _not_begun(code)

    def progress(self, seat: str) -> dict[str, Any] | None:
        """Return what the job of a seat does now, None where there is none."""
        job = self.state.jobs.get(seat)
        if job is None:
            return None
        found: dict[str, Any] = {}
        with contextlib.suppress(ProblemError):
            found = read_job(job_path(self.seat(seat), job.run, job.kind)) or {}
        return {"kind": job.kind, **{name: found.get(name) for name in ("phase", "text", "done", "total")}}

    def _end(self, seat: str, record: dict[str, Any]) -> None:
        job = self.state.jobs[seat]
        self.changes += 1
        if job.kind != "stop" or not self._has_failed(seat):
            problems = record.get("problems", [])[:MOST_SHOWN]
            self.ended[seat] = {"kind": job.kind, "state": record["state"], "problems": problems}
        before = self.state
        self.accept(job_ended(before, seat, record["state"]))
        if before.leases.keys() - self.state.leases.keys():
            self.usage.write(self.state.tick.boottime, is_end=True)
        if seat in self.state.jobs:
            self.begin(seat)
            return
        codes = [problem["code"] for problem in record.get("problems", [])]
        self.store.audit(uid=job.uid, job=job.kind, seat=seat, run=job.run, outcome=record["state"], problems=codes)
        self._forget_process(job.run)
        self.store.forget_order(job.run)
        if job.kind in ("up", "stop"):
            self.clear_notice(seat)

    def _has_failed(self, seat: str) -> bool:
        """Return whether the last job of a seat has failed: the stop that follows does not hide why."""
        return self.ended.get(seat, {}).get("state", "committed") not in ("committed", "unchanged")

    def was_not_resumed(self, seat: str) -> bool:
        """Return whether a seat was to be started again, and was not: that is tried again at the next look."""
        ended = self.ended.get(seat)
        return ended is not None and ended["kind"] == "resume" and ended["state"] != "committed"

    def _forget_refusals(self, running: frozenset[str]) -> None:
        """Forget why seats were not started again that run by now, such as by a run of the control machine."""
        for seat in filter(self.was_not_resumed, running):
            del self.ended[seat]

    def _forget_process(self, run: str) -> None:
        process = self._processes.pop(run, None)
        if process:
            process.poll()  # it has ended, and the kernel keeps its exit code until it is asked for

    def _show_notice(self, action: Action) -> None:
        leases = self.state.of_seat(action.seat)
        left = _minutes(lease.left_s for lease in leases)
        grace = _minutes(lease.grace_s for lease in leases)
        reason = next((lease.released for lease in leases if lease.released), "")
        if reason:
            text = IS_RELEASED.format(grace=grace, reason=reason)
        elif action.minutes:
            text = ENDS_SOON.format(minutes=left)
        else:
            text = HAS_ENDED.format(grace=grace)
        self.write_notice(action.seat, text)

    def _announce_versions(self) -> None:
        """Add to the notice of each running seat that there is a newer version of its environment, or remove that."""
        newest = self.newest()
        for seat in {lease.seat for lease in self.state.leases.values()} - set(self.state.jobs):
            wanted = self.wanted(seat)
            has_newer = wanted.get("version") != newest.get(str(wanted.get("environment")), wanted.get("version"))
            text = read(self.seat(seat).folder / FOLDER / LEASE_FILE)
            if has_newer != (NEW_VERSION in text):
                self.write_notice(seat, text + NEW_VERSION if has_newer else text.replace(NEW_VERSION, ""))

    def newest(self) -> dict[str, str]:
        """Return the published versions by environment, none without a configuration."""
        try:
            return {name: one.version for name, one in self.config.read().environments.items()}
        except ProblemError:
            return {}

    def clear_notice(self, seat: str) -> None:
        """Remove the notice of the end of a lease."""
        self.write_notice(seat, "")

    def write_notice(self, name: str, text: str) -> None:
        """Show a text in a seat about its lease, in place of an earlier one. A full disk stops nothing here."""
        seat = self.seat(name)
        with contextlib.suppress(OSError):
            if seat.folder.is_dir():
                write_atomic(make_notice_folder(seat) / LEASE_FILE, text, 0o644)


def _minutes(seconds: Iterable[float]) -> int:
    """Return the longest of these times in minutes, rounded up."""
    return math.ceil(max(seconds, default=0.0) / 60)


def _not_begun(code: int) -> dict[str, Any]:
    fault = ProblemError(
        "job_not_started",
        f"the program of the job ended with exit code {code} before it began",
        "the node may have no memory or no disk space left",
        "try again; if it stays so, ask the admin of the lab",
    )
    return {"state": "failed", "problems": [fault.problem]}


def job_program(argv: list[str]) -> Launch:
    """Return the function that starts `argv` for a job, as a process of its own that outlives this one."""

    def launch(*words: str) -> Process:
        null = subprocess.DEVNULL
        return subprocess.Popen(
            [*argv, *words], stdin=null, stdout=null, stderr=null, cwd="/", start_new_session=True, close_fds=True
        )

    return launch
