"""From what was read of an image and found of its layers to one entry of a catalog."""

from collections.abc import Iterable, Mapping

from provisioner.adapters.registry.reader import Seen
from provisioner.domain.registry.aggregate import fold
from provisioner.domain.registry.catalog import Listing
from provisioner.domain.registry.image_problems import Fault
from provisioner.domain.registry.manifest import Blob
from provisioner.domain.values.image import TaggedImage
from provisioner.domain.values.sync import SyncReport, SyncState


def layers_of(image: Seen) -> tuple[Blob, ...]:
    """The layers worth a look: not those of an image for another platform."""
    absent = image.fault is not None and image.fault.state is SyncState.ABSENT
    return () if image.manifest is None or absent else image.manifest.own_layers


def listing(image: Seen, platform: str, found: Mapping[Blob, Fault | None], others: Iterable[Fault] = ()) -> Listing:
    """`found`: of each layer that was looked at. `others`: faults besides those of the image and its layers."""
    findings = dict(found)
    if image.manifest is not None and image.config is not None:
        findings[image.manifest.config] = None
    faults = [*([] if image.fault is None else [image.fault]), *others]
    report = fold(str(image.reference), platform, image.manifest, findings, faults)
    return Listing(image=_tagged(image, report), report=report)


def _tagged(image: Seen, report: SyncReport) -> TaggedImage:
    config = image.config
    return TaggedImage(
        reference=report.reference,
        sync=report.state,
        digest=report.digest,
        platforms=image.platforms,
        env=None if config is None else config.env,
        labels=None if config is None else config.labels,
        history=None if config is None else config.history,
        problems=report.problems,
    )
