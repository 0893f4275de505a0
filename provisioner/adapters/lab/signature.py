"""Sign lab.lock with an SSH key, and verify such a signature: `ssh-keygen -Y` (OpenSSH 8.2 or newer)."""

import os
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from provisioner.domain.values.problem import Problem, ProblemError

NAMESPACE = "provisioner-lock"  # so that a signature made for another purpose, such as git, is not one of a lock
SUFFIX = ".sig"
_SECONDS = 60
_PROGRAM = "ssh-keygen"


def sign(content: bytes, key: Path, *, may_ask: bool) -> str:
    """Return the armoured signature of `content`. `key` is a private key, or a public one whose agent has the other.

    `may_ask`: ssh-keygen may ask for the passphrase on the terminal, however long that takes; without a terminal it
    gets none and fails. Raises ProblemError (usage) where it cannot sign.
    """
    with TemporaryDirectory(prefix="provisioner-signature-") as folder:
        document = Path(folder) / "lab.lock"  # not stdin: ssh-keygen would read a passphrase from it
        document.write_bytes(content)
        done = _run(["-q", "-Y", "sign", "-n", NAMESPACE, "-f", str(key), str(document)], may_ask=may_ask)
        signature = document.with_name(f"{document.name}{SUFFIX}")
        if done.returncode == 0 and signature.exists():
            return signature.read_text(encoding="ascii")
    problem = Problem(
        "not_signed",
        f"ssh-keygen cannot sign with {key}: {_last_line(done.stderr)}",
        "lab.lock.sig is the signature of lab.lock by this key",
        "give an SSH key that you may read; one with a passphrase needs a terminal, or an agent that holds it",
    )
    raise ProblemError(problem, "usage")


def verify(name: str, content: bytes, signature: bytes, signers: Path) -> str:
    """Return the principal of the allowed signer who signed `content`. `name` is the document, for messages.

    `signers` is a file of allowed signers (ssh-keygen(1)); its options, such as `namespaces` and `valid-before`, hold.
    Raises ProblemError (usage) where the signature is not one of them.
    """
    with TemporaryDirectory(prefix="provisioner-signature-") as folder:
        path = Path(folder) / "signature"
        path.write_bytes(signature)
        allowed = ["-f", str(signers), "-s", str(path)]
        found = _run(["-Y", "find-principals", *allowed])
        last = found
        for principal in found.stdout.decode(errors="replace").splitlines() if found.returncode == 0 else ():
            last = _run(["-Y", "verify", "-n", NAMESPACE, "-I", principal, *allowed], content)
            if last.returncode == 0:
                return principal
    raise ProblemError(_wrong_signature(name, signers, _last_line(last.stderr or last.stdout)), "usage")


def missing_signature(name: str, signers: Path) -> ProblemError:
    """Return the refusal of a lock that has no signature though its signers are known."""
    problem = Problem(
        "signature_missing",
        f"{name}: there is no signature of this lock",
        f"the signers of this lab's lock are known ({signers}), so a lock without a signature may be a forged one",
        "ask the lab's admin to publish lab.lock.sig beside lab.lock: provision lock LAB --sign KEY",
    )
    return ProblemError(problem, "usage")


def _run(words: list[str], content: bytes = b"", *, may_ask: bool = False) -> subprocess.CompletedProcess[bytes]:
    """Run ssh-keygen. Unless it `may_ask`, it finds neither a terminal nor a window to ask in, and has a time limit."""
    silent: dict[str, Any] = {
        "input": content,
        "env": {**os.environ, "SSH_ASKPASS_REQUIRE": "never"},
        "start_new_session": True,
        "timeout": _SECONDS,
    }
    try:
        return subprocess.run([_PROGRAM, *words], capture_output=True, check=False, **({} if may_ask else silent))
    except (OSError, subprocess.TimeoutExpired) as error:
        problem = Problem(
            "no_ssh_keygen",
            f"ssh-keygen cannot be used: {error}",
            "signatures of locks are made and verified by OpenSSH",
            "install OpenSSH's client, 8.2 or newer (apt-get install openssh-client)",
        )
        raise ProblemError(problem) from None


def _wrong_signature(name: str, signers: Path, reason: str) -> Problem:
    return Problem(
        "signature_wrong",
        f"{name}: its signature is not valid: {reason}",
        f"only a lock that one of the signers in {signers} has signed is used",
        "ask the lab's admin to sign lab.lock again (provision lock LAB --sign KEY); if they did not change it, "
        "somebody else did",
    )


def _last_line(text: bytes) -> str:
    lines = text.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it gives no reason"
