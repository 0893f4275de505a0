"""Install the CA of a mirror or registry for the Docker Engine of this machine."""

from pathlib import Path

from provisioner.adapters.state.files import read_text
from provisioner.domain.values.problem import Problem, ProblemError

CERTS = Path("/etc/docker/certs.d")  # dockerd reads HOST:PORT/*.crt at each pull and push


def install_ca(address: str, ca: Path, certs: Path = CERTS) -> None:
    """Copy the CA into the engine's folder for `address`; other files there stay.

    Raises ProblemError, with the command to run as root, where the folder cannot be written.
    """
    folder, text = (
        certs / address,
        read_text(ca, f"put the CA certificate of {address} there, or correct lab.yml").encode(),
    )
    try:
        if not any(path.read_bytes() == text for path in folder.glob("*.crt")):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "provisioner.crt").write_bytes(text)
    except OSError as error:
        raise ProblemError(
            Problem(
                "engine_ca",
                f"Docker on this machine does not trust {address}, and its CA cannot be installed: {error.strerror}",
                "the engine reads the CA of a registry from its own folder, not from lab.yml",
                f"sudo install -D -m 0644 {ca.resolve()} {folder / 'provisioner.crt'}",
            )
        ) from None
