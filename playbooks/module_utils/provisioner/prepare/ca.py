"""A private CA for the lab's registry, and the registry's certificate. Private keys stay on this host (0600)."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from ipaddress import ip_address
from pathlib import Path
from typing import Sequence

from ansible.module_utils.provisioner.base.command import run
from ansible.module_utils.provisioner.base.files import read, read_record, write_atomic
from ansible.module_utils.provisioner.base.problem import ProblemError

FOLDER = Path("/etc/docker/registry/tls")
SECONDS = 60
CA_DAYS = "3650"
CERTIFICATE_DAYS = "825"
RENEW_SECONDS = str(30 * 86400)  # a certificate is renewed that long before it expires
KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


def read_ca() -> str:
    """Return the certificate of the CA (PEM), empty when there is none.

    Raises ProblemError `io_error` when it cannot be read: a new CA in its place would be unknown to every node.
    """
    return read_record(FOLDER / "ca.crt")


def make_ca(name: str) -> None:
    """Make a new CA for the registry of the lab `name`. Raises ProblemError `no_certificate`."""
    FOLDER.mkdir(mode=0o755, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=str(FOLDER)) as place:
        key, certificate = Path(place) / "ca.key", Path(place) / "ca.crt"
        usage = ["-addext", "basicConstraints=critical,CA:TRUE,pathlen:0"]
        usage += ["-addext", "keyUsage=critical,keyCertSign,cRLSign"]
        subject = ["-subj", f"/CN=provisioner, registry of {name}"]
        _openssl("req", "-x509", *KEY, "-keyout", key, "-days", CA_DAYS, *subject, *usage, "-out", certificate)
        _put(key, 0o600, None)
        _put(certificate, 0o644, None)


def has_valid_certificate(hosts: Sequence[str]) -> bool:
    """Return whether the certificate is from this CA, for these names or addresses, and not about to expire."""
    server, signer = str(FOLDER / "server.crt"), str(FOLDER / "ca.crt")
    if read(FOLDER / "names") != _names(hosts) or not read(FOLDER / "server.key"):
        return False
    fresh = run(["openssl", "x509", "-in", server, "-noout", "-checkend", RENEW_SECONDS], SECONDS)
    return fresh.code == 0 and run(["openssl", "verify", "-CAfile", signer, server], SECONDS).code == 0


def issue_certificate(hosts: Sequence[str], owner: str) -> None:
    """Issue a certificate for `hosts`; `owner` is the account that the registry runs as.

    Raises ProblemError `no_certificate`.
    """
    with tempfile.TemporaryDirectory(dir=str(FOLDER)) as place:
        key, request, certificate, extensions = (Path(place) / f"server.{end}" for end in ("key", "csr", "crt", "ext"))
        extensions.write_text(f"subjectAltName={_names(hosts)}\nextendedKeyUsage=serverAuth\n")
        _openssl("req", "-new", *KEY, "-keyout", key, "-subj", f"/CN={hosts[0]}", "-out", request)
        signer = [
            "-CA",
            str(FOLDER / "ca.crt"),
            "-CAkey",
            str(FOLDER / "ca.key"),
            "-set_serial",
            f"0x{secrets.token_hex(8)}",
        ]
        how = ["-days", CERTIFICATE_DAYS, "-extfile", str(extensions), "-out", str(certificate)]
        _openssl("x509", "-req", "-in", request, *signer, *how)
        _put(key, 0o600, owner)
        _put(certificate, 0o644, None)
    write_atomic(FOLDER / "names", _names(hosts), 0o644)


def _names(hosts: Sequence[str]) -> str:
    return ",".join(map(_name, hosts))


def _name(host: str) -> str:
    try:
        return f"IP:{ip_address(host.strip('[]'))}"
    except ValueError:
        return f"DNS:{host}"


def _put(path: Path, mode: int, owner: str | None) -> None:
    path.chmod(mode)
    if owner is not None:
        shutil.chown(str(path), owner)
    path.replace(FOLDER / path.name)


def _openssl(*words: str | os.PathLike[str]) -> None:
    ran = run(["openssl", *(str(word) for word in words)], SECONDS)
    if ran.code != 0:
        raise ProblemError(
            "no_certificate",
            f"openssl could not make a certificate: {ran.message}",
            "nodes verify the lab's registry by its certificate",
            "check the disk space on the host of the registry: df -h /etc",
        )
