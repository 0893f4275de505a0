"""Names of images: `[registry/]repository[:tag][@digest]`, as in the OCI distribution specification."""

import re
from typing import Annotated, Self

from pydantic import StringConstraints

from provisioner.domain.values.model import Value

Digest = Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]

# An image by digest in a registry that is named, as a lock pins it: HOST[:PORT]/REPOSITORY@DIGEST.
PinnedReference = Annotated[
    str,
    StringConstraints(
        pattern=r"^(\[[0-9a-fA-F:]+\]|[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?)(:\d{1,5})?"
        r"/[a-z0-9]+([._/-]+[a-z0-9]+)*@sha256:[0-9a-f]{64}$"
    ),
]

_REFERENCE = re.compile(
    r"(?:(?P<registry>localhost(?::\d+)?|[a-zA-Z0-9-]+(?:\.[a-zA-Z0-9-]+)+(?::\d+)?|[a-zA-Z0-9-]+:\d+|\[[0-9a-f:]+\](?::\d+)?)/)?"
    r"(?P<repository>[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*)*)"
    r"(?::(?P<tag>\w[\w.-]{0,127}))?"
    r"(?:@(?P<digest>sha256:[0-9a-f]{64}))?"
)


class ImageReference(Value):
    """`registry` is None for a bare name, which Docker would look up on Docker Hub."""

    registry: str | None = None
    repository: str
    tag: str | None = None
    digest: Digest | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse a reference. Raises ValueError if `text` is not an image reference."""
        match = _REFERENCE.fullmatch(text)
        if match is None:
            raise ValueError(f"not an image reference: {text!r}")
        return cls(**match.groupdict())

    def pinned(self, digest: str) -> Self:
        """Return the same image with its digest; the tag is kept for readers."""
        return self.model_copy(update={"digest": digest})

    def by_digest(self) -> str:
        """Return what an engine pulls: name and digest, without the tag. Raises ValueError if there is no digest."""
        if self.digest is None:
            raise ValueError(f"{self} has no digest")
        return str(self.model_copy(update={"tag": None}))

    def __str__(self) -> str:
        """Return the reference as Docker writes it."""
        text = f"{self.registry}/{self.repository}" if self.registry else self.repository
        text += f":{self.tag}" if self.tag else ""
        return text + (f"@{self.digest}" if self.digest else "")
