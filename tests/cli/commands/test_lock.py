"""`provision lock --sign`: the signature beside lab.lock, and what is said of one that no longer fits."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from provisioner.adapters.lab.lockfile import fetch_lock
from provisioner.cli.commands import lock as lock_command
from provisioner.cli.wiring import NewLock
from provisioner.domain.lab.lock import Lockfile, Placement
from provisioner.domain.registry.catalog import Catalog
from provisioner.domain.selection.selection import Selection
from provisioner.workflow.lock.lock import Choice, LockResult
from tests.adapters.lab.test_signature import allow, make_key
from tests.builders import a_lock
from tests.cli.running import run

NEVER = datetime(2026, 11, 29, tzinfo=UTC)


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    run("init", "demo")
    monkeypatch.setattr(lock_command, "probe", lambda *_: {})
    makes(monkeypatch, a_lock())
    return tmp_path / "inventories/demo"


def makes(monkeypatch: pytest.MonkeyPatch, lock: Lockfile) -> None:
    selection = Selection(decision="none", torch=None, tag=None, nodes={}, advice=())
    result = LockResult(lock, {"default": Choice(selection, Catalog(mirror=lock.mirror, checked_at=NEVER))})

    def new_lock(*_: Any, **__: Any) -> NewLock:
        return NewLock(result, {})

    monkeypatch.setattr(lock_command, "new_lock", new_lock)


def test_a_lock_is_signed_beside_it(lab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = make_key(tmp_path / "ann")
    done = run("lock", "demo", "--sign", str(key))
    assert done.exit_code == 0, done.stderr
    assert "lab.lock.sig is its signature" in done.stderr
    found = fetch_lock(str(lab / "lab.lock"), signers=allow(tmp_path / "signers", key))
    assert (found.lock, found.signer) == (a_lock(), "ann@lab.example")
    assert "older" not in run("lock", "demo").stderr
    makes(monkeypatch, a_lock().model_copy(update={"torch": "2.11.0"}))
    assert "lab.lock.sig is the signature of an older lock" in run("lock", "demo").stderr
    assert "older" not in run("lock", "demo", "--sign", str(key)).stderr


def test_the_lock_to_publish_names_no_person_and_is_signed(
    lab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    placed = a_lock().model_copy(update={"people": {"anna": Placement(node="n1")}})
    makes(monkeypatch, placed)
    key, public = make_key(tmp_path / "ann"), tmp_path / "public.lock"
    done = run("lock", "demo", "--public", str(public), "--sign", str(key))
    assert (done.exit_code, "public.lock.sig is its signature" in done.stderr) == (0, True), done.stderr
    found = fetch_lock(str(public), signers=allow(tmp_path / "signers", key))
    assert (found.lock, found.signer) == (a_lock(), "ann@lab.example")
    assert "anna" not in public.read_text()
    assert fetch_lock(str(lab / "lab.lock")).lock == placed
    assert not (lab / "lab.lock.sig").exists()
    assert run("lock", "demo", "--public", str(public)).exit_code == 0
    assert fetch_lock(str(public)).lock == a_lock()


def test_the_lock_of_the_lab_is_not_overwritten_with_the_one_to_publish(lab: Path) -> None:
    done = run("lock", "demo", "--public", str(lab / "lab.lock"))
    assert (done.exit_code, "keeps who sits where" in done.stderr) == (2, True)
    assert not (lab / "lab.lock").exists()


def test_the_difference_counts_people(lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("lock", "demo").exit_code == 0
    placed = a_lock().model_copy(update={"people": {"anna": Placement(node="n1")}})
    makes(monkeypatch, placed)
    done = run("lock", "demo")
    assert "1 place of people: 1 added" in done.stdout
    assert "anna" not in done.stdout
    assert fetch_lock(str(lab / "lab.lock")).lock == placed
    assert "No changes" in run("lock", "demo").stdout


def test_a_key_that_cannot_sign_is_reported_and_the_lock_kept(lab: Path, tmp_path: Path) -> None:
    done = run("lock", "demo", "--sign", str(make_key(tmp_path / "ann", passphrase="secret")))
    assert (done.exit_code, "not_signed" in done.stderr) == (2, True)
    assert (lab / "lab.lock").exists()
    assert not (lab / "lab.lock.sig").exists()
