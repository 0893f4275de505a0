"""Report the slowest tests and the time of each bed of real nodes. A plugin of pytest.

The first test of a bed sets the bed up; see tests/beds.py.
"""

import time
from dataclasses import dataclass, field

import pytest

from tests.beds import bed_of

SLOWEST = 10


@dataclass
class Bed:
    """Seconds in fixtures and in tests, and first and last use of the bed in seconds since the start of the run."""

    setup: float = 0.0
    calls: float = 0.0
    teardown: float = 0.0
    tests: int = 0
    begun: float = float("inf")
    ended: float = 0.0

    def add(self, report: pytest.TestReport, run_began: float) -> None:
        match report.when:
            case "setup":
                self.setup += report.duration
            case "call":
                self.calls += report.duration
                self.tests += 1
            case "teardown":
                self.teardown += report.duration
        self.begun = min(self.begun, report.start - run_began)
        self.ended = max(self.ended, report.stop - run_began)


@dataclass(eq=False)
class Timing:
    """Collects the reports of all workers, in the main process."""

    began: float = field(default_factory=time.time)
    phases: list[tuple[float, str, str]] = field(default_factory=list)
    beds: dict[str, Bed] = field(default_factory=dict)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.phases.append((report.duration, report.when or "", report.nodeid))
        if name := bed_of(report.nodeid):
            self.beds.setdefault(name, Bed()).add(report, self.began)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.beds:
            terminalreporter.section("beds (seconds)")
            terminalreporter.line(f"{'bed':<16}{'tests':>6}{'set-up':>9}{'in tests':>9}{'removal':>9}   from - to")
            for name, bed in sorted(self.beds.items(), key=lambda item: -item[1].ended + item[1].begun):
                seconds = f"{bed.setup:>9.1f}{bed.calls:>9.1f}{bed.teardown:>9.1f}"
                terminalreporter.line(f"{name:<16}{bed.tests:>6}{seconds}   {bed.begun:.0f} - {bed.ended:.0f}")
        if self.phases:
            terminalreporter.section(f"{SLOWEST} slowest tests and set-ups (seconds)")
            for duration, phase, nodeid in sorted(self.phases, reverse=True)[:SLOWEST]:
                terminalreporter.line(f"{duration:8.1f}  {phase:<8}  {nodeid}")


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Timing(), "timing")
