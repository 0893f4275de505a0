"""The beginning of every run that changes a lab: its record is opened, and nobody else is at the lab meanwhile."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from provisioner.adapters.state.journal import RunJournal, open_run
from provisioner.adapters.state.run_lock import Holder, holding
from provisioner.adapters.user import holder
from provisioner.cli.signals import terminable
from provisioner.domain.rollout.run_spec import Verb
from provisioner.domain.values.claim import Claim
from provisioner.workflow.protocols import Probed
from provisioner.workflow.rollout.claims import fence_above


@contextmanager
def open_run_context(lab: str, verb: Verb, breaks: str) -> Iterator[RunJournal]:
    """Raises ProblemError (locked) where another run than `breaks` is at the lab."""
    journal = open_run(lab)
    with locked(lab, journal.run, verb, breaks):
        yield journal


@contextmanager
def locked(lab: str, run: str, verb: str, breaks: str) -> Iterator[None]:
    since = datetime.now(UTC).isoformat(timespec="seconds")
    own = Holder(run=run, verb=verb, holder=holder(), since=since, pid=os.getpid())
    with terminable(), holding(lab, own, breaks):
        yield


def claim_for(run: str, lab: str, verb: Verb, probed: Probed) -> Claim:
    """Above every claim that one of these nodes has seen."""
    since = datetime.now(UTC).isoformat(timespec="seconds")
    return Claim(run=run, lab=lab, holder=holder(), since=since, fence=fence_above(probed), verb=verb)
