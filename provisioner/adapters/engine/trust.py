"""What this machine's engine must trust before it can pull from a mirror or push to a lab's registry."""

from pathlib import Path

from provisioner.adapters.state.files import read_text
from provisioner.domain.values.problem import Problem, ProblemError

CERTS = Path("/etc/docker/certs.d")  # dockerd reads every *.crt below HOST:PORT anew at each pull and push


def trust(address: str, ca: Path, certs: Path = CERTS) -> None:
    """Puts the CA where the engine looks, beside what others have put there. Raises ProblemError with the command."""
    folder, text = certs / address, read_text(ca, f"put the CA of {address} there, or correct lab.yml").encode()
    try:
        if not any(path.read_bytes() == text for path in folder.glob("*.crt")):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "provisioner.crt").write_bytes(text)
    except OSError as error:
        raise ProblemError(_engine_ca(address, ca, folder, error)) from None


def _engine_ca(address: str, ca: Path, folder: Path, error: OSError) -> Problem:
    return Problem(
        "engine_ca",
        f"Docker on this machine does not trust {address}, and its CA cannot be put there: {error.strerror}",
        "the engine reads a private CA from its own folder, not from lab.yml",
        f"sudo install -D -m 0644 {ca.resolve()} {folder / 'provisioner.crt'}",
    )
