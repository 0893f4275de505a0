"""Signatures of locks by the real ssh-keygen."""

from pathlib import Path

import pytest

from provisioner.adapters.lab.signature import sign, verify
from provisioner.domain.values.problem import ProblemError
from tests.lab.host import run

CONTENT = b'{"schema": "provisioner/lock/1"}\n'


def make_key(path: Path, passphrase: str = "") -> Path:
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", passphrase, "-C", "", "-f", path)
    return path


def allow(path: Path, *keys: Path, options: str = "") -> Path:
    lines = (f"{key.stem}@lab.example {options} {key.with_suffix('.pub').read_text()}" for key in keys)
    path.write_text("".join(lines))
    return path


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys")
    for name in ("ann", "bob"):
        make_key(folder / name)
    return folder


def code(content: bytes, signature: bytes, signers: Path) -> str:
    with pytest.raises(ProblemError) as refused:
        verify("lab.lock", content, signature, signers)
    assert refused.value.ending == "usage"
    return refused.value.problems[0].code


def test_a_signature_is_verified_with_its_principal(keys: Path, tmp_path: Path) -> None:
    signature = sign(CONTENT, keys / "bob", may_ask=False).encode()
    both = allow(tmp_path / "both", keys / "ann", keys / "bob", options='namespaces="provisioner-lock"')
    assert verify("lab.lock", CONTENT, signature, both) == "bob@lab.example"
    assert code(CONTENT.replace(b"1", b"2"), signature, both) == "signature_wrong"
    assert code(CONTENT, signature, allow(tmp_path / "ann", keys / "ann")) == "signature_wrong"
    assert code(CONTENT, signature, allow(tmp_path / "git", keys / "bob", options='namespaces="git"')) == (
        "signature_wrong"
    )
    expired = allow(tmp_path / "expired", keys / "bob", options='valid-before="20200101"')
    assert code(CONTENT, signature, expired) == "signature_wrong"
    for bad in (b"", b"garbage", signature[:200], b"\xff" * 100):
        assert code(CONTENT, bad, both) == "signature_wrong"


def test_a_signature_made_for_another_purpose_is_refused(keys: Path, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(CONTENT)
    run("ssh-keygen", "-q", "-Y", "sign", "-n", "git", "-f", keys / "ann", tmp_path / "x")
    signers = allow(tmp_path / "ann", keys / "ann")
    assert code(CONTENT, (tmp_path / "x.sig").read_bytes(), signers) == "signature_wrong"


@pytest.mark.parametrize("key", ["none", "locked"])
def test_a_key_that_cannot_be_used_without_a_question_is_reported(tmp_path: Path, key: str) -> None:
    make_key(tmp_path / "locked", passphrase="secret")
    with pytest.raises(ProblemError) as refused:
        sign(CONTENT, tmp_path / key, may_ask=False)
    assert (refused.value.ending, refused.value.problems[0].code) == ("usage", "not_signed")


def test_a_machine_without_ssh_keygen_is_reported(keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ProblemError, match="no_ssh_keygen"):
        sign(CONTENT, keys / "ann", may_ask=False)
