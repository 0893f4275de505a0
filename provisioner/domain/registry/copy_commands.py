"""The commands that copy one image by digest from one registry to another: with skopeo, and with an engine alone."""

import shlex

from provisioner.domain.values.model import Value
from provisioner.domain.values.reference import ImageReference


class Place(Value):
    """A registry as a person reaches it. `ca`: path of the certificate file, where this machine does not know it."""

    address: str
    ca: str | None = None
    plain_http: bool = False

    @property
    def certificates(self) -> str:
        """A folder of one's own for its CA, where skopeo would look too: it wants a folder of *.crt files."""
        return f"$HOME/.config/containers/certs.d/{shlex.quote(self.address)}"


def with_skopeo(source: ImageReference, at: Place, target: ImageReference, to: Place) -> tuple[str, ...]:
    """By digest, and the digest stays: `source` names one, `target` a tag."""
    given = [*_flags("src", at), *_flags("dest", to)]
    names = [shlex.quote(f"docker://{name}") for name in (source.by_digest(), str(target))]
    prepared = [_put(place) for place in dict.fromkeys((at, to)) if place.ca is not None]
    return (*prepared, " ".join(["skopeo copy --preserve-digests", *given, *names]))


def with_engine(source: ImageReference, target: ImageReference) -> tuple[str, ...]:
    """The engine must trust both. It may compress layers anew: then the digest is another, the image the same."""
    theirs, ours = shlex.quote(source.by_digest()), shlex.quote(str(target))
    return (f"docker pull {theirs}", f"docker tag {theirs} {ours}", f"docker push {ours}")


def _flags(side: str, place: Place) -> list[str]:
    if place.plain_http:
        return [f"--{side}-tls-verify=false"]
    return [] if place.ca is None else [f"--{side}-cert-dir {place.certificates}"]


def _put(place: Place) -> str:
    return f"install -D -m 0644 {shlex.quote(place.ca or '')} {place.certificates}/ca.crt"
