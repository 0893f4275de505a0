"""What an order says about an image: where it is pulled from, and the time limits of a seat that it starts."""

from provisioner.domain.lab.lock import LockedImage
from provisioner.domain.values.model import Value


class OrderedImage(Value):
    """An image to pull. `reference` is by digest in the lab's registry; `rootfs`: diff IDs of the unpacked layers."""

    reference: str
    tag: str
    platform: str
    rootfs: tuple[str, ...] = ()
    bytes: int = 0

    @property
    def digest(self) -> str:
        """The digest of the image, as an engine reports it."""
        return self.reference.rpartition("@")[2]


class OrderedRegistry(Value):
    """The registry to pull from. `ca`: PEM text for the engine's certs.d; None: that folder is not changed."""

    address: str
    ca: str | None = None


class Deadlines(Value):
    """Time limits in seconds. `min_healthy`: how long the services must stay healthy."""

    pull: int
    healthy: int
    min_healthy: int


def order_image(image: LockedImage) -> OrderedImage:
    """Return the locked image in the form of an order."""
    return OrderedImage(
        reference=image.lab, tag=image.reference, platform=image.platform, rootfs=image.rootfs, bytes=image.bytes
    )


def order_registry(image: LockedImage, ca: str | None) -> OrderedRegistry:
    """Return the registry that the locked image is pulled from. `ca`: PEM text, None: certs.d is not changed."""
    return OrderedRegistry(address=image.lab.split("/", 1)[0], ca=ca)
