"""Shell commands that copy one image by digest between registries: with skopeo, or with a container engine alone."""

import shlex

from provisioner.domain.values.model import Value
from provisioner.domain.values.reference import ImageReference


class RegistryEndpoint(Value):
    """How this machine connects to a registry. `ca`: path of a certificate file, None where the system trusts it."""

    address: str
    ca: str | None = None
    plain_http: bool = False

    @property
    def certs_dir(self) -> str:
        """A folder for the registry's CA alone: skopeo takes a folder of *.crt files and searches this one as well."""
        return f"$HOME/.config/containers/certs.d/{shlex.quote(self.address)}"


def skopeo_commands(
    source: ImageReference, at: RegistryEndpoint, target: ImageReference, to: RegistryEndpoint
) -> tuple[str, ...]:
    """Return the commands that copy `source` (with a digest) to `target` (with a tag). The digest does not change."""
    options = [*_tls_options("src", at), *_tls_options("dest", to)]
    names = [shlex.quote(f"docker://{name}") for name in (source.by_digest(), str(target))]
    setup = [_install_ca(endpoint) for endpoint in dict.fromkeys((at, to)) if endpoint.ca is not None]
    return (*setup, " ".join(["skopeo copy --preserve-digests", *options, *names]))


def engine_commands(source: ImageReference, target: ImageReference) -> tuple[str, ...]:
    """Return the commands that pull, tag and push the image with Docker.

    The engine must trust both registries. It may compress the layers again: the digest then differs, the image not.
    """
    pulled, pushed = shlex.quote(source.by_digest()), shlex.quote(str(target))
    return (f"docker pull {pulled}", f"docker tag {pulled} {pushed}", f"docker push {pushed}")


def _tls_options(side: str, endpoint: RegistryEndpoint) -> list[str]:
    if endpoint.plain_http:
        return [f"--{side}-tls-verify=false"]
    return [] if endpoint.ca is None else [f"--{side}-cert-dir {endpoint.certs_dir}"]


def _install_ca(endpoint: RegistryEndpoint) -> str:
    return f"install -D -m 0644 {shlex.quote(endpoint.ca or '')} {endpoint.certs_dir}/ca.crt"
