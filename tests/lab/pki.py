"""A certificate authority for the registries of every lab on this machine, and their certificates."""

import secrets
from collections.abc import Sequence
from pathlib import Path

from tests.lab.host import run

DAYS = "3650"
SYSTEM_BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")


def ca_certificate(root: Path) -> Path:
    return root / "ca/ca.crt"


def bundle(root: Path) -> Path:
    """File with the machine's authorities and this one, which the outer engine trusts."""
    return root / "ca/bundle.crt"


def make_ca(root: Path) -> None:
    """Create the authority unless it exists."""
    certificate, key = ca_certificate(root), root / "ca/ca.key"
    if bundle(root).exists():
        return
    certificate.parent.mkdir(parents=True, exist_ok=True)
    _make_key(key)
    usage = ("-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign,cRLSign")
    subject = ("-subj", "/CN=provisioner test bed")
    run("openssl", "req", "-x509", "-new", "-key", key, "-days", DAYS, *subject, *usage, "-out", certificate)
    system = SYSTEM_BUNDLE.read_text() if SYSTEM_BUNDLE.exists() else ""
    bundle(root).write_text(system + certificate.read_text())


def issue(root: Path, folder: Path, names: Sequence[str]) -> None:
    """Write server.key and server.crt for `names` (like `IP:198.18.0.3` or `DNS:registry.lab`) into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    request, extensions = folder / "server.csr", folder / "server.ext"
    _make_key(folder / "server.key")
    run("openssl", "req", "-new", "-key", folder / "server.key", "-subj", "/CN=lab registry", "-out", request)
    extensions.write_text(f"subjectAltName={','.join(names)}\nextendedKeyUsage=serverAuth\n")
    serial = f"0x{secrets.token_hex(8)}"
    signer = ("-CA", ca_certificate(root), "-CAkey", root / "ca/ca.key", "-set_serial", serial)
    details = ("-days", DAYS, "-extfile", extensions, "-out", folder / "server.crt")
    run("openssl", "x509", "-req", "-in", request, *signer, *details)


def _make_key(path: Path) -> None:
    run("openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", path)
