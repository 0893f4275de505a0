"""The check of images, layer by layer: manifests with their configs first, then each layer once for all images."""

from collections.abc import Iterable, Mapping, Sequence

from provisioner.adapters.registry.connection import RegistryConnection
from provisioner.adapters.registry.reader import ImageMetadata
from provisioner.domain.registry.aggregate import build_sync_report
from provisioner.domain.registry.catalog import Listing
from provisioner.domain.registry.image_problems import Fault, layers_not_checked
from provisioner.domain.registry.manifest import Blob
from provisioner.domain.values.event import Event
from provisioner.domain.values.image import TaggedImage
from provisioner.domain.values.reference import ImageReference
from provisioner.domain.values.sync import SyncReport, SyncState

_LayerAt = tuple[str, Blob]  # repository and layer


class ImageChecker(RegistryConnection):
    """Checks images. A fault of an image or of the registry is in the report and never raised."""

    def inspect(self, reference: ImageReference, platform: str) -> Listing:
        """Check one image with all its layers, also on a mirror that then downloads them."""
        return self._check_images([reference], platform, layers=True)[0]

    def check(
        self, references: Sequence[ImageReference], platform: str, *, deep: bool = False
    ) -> tuple[SyncReport, ...]:
        """Check all layers of each image; reports in order. `deep` reads and hashes every byte of every layer."""
        return tuple(entry.report for entry in self._check_images(references, platform, layers=True, deep=deep))

    def _check_images(
        self, references: Sequence[ImageReference], platform: str, *, layers: bool, deep: bool = False
    ) -> tuple[Listing, ...]:
        named = [ref.model_copy(update={"registry": ref.registry or self.address}) for ref in references]
        images = self._run_all(
            lambda ref: self._reader.image(ref, platform, with_config=layers), named, "Reading manifests"
        )
        wanted = (self._locate(b, image) for image in images if layers for b in _layers_to_check(image))
        faults = self._check_layers(list(dict.fromkeys(wanted)), deep=deep)
        listings = []
        for image in images:
            found = {b: faults[at] for b in _layers_to_check(image) if (at := self._locate(b, image)) in faults}
            listings.append(build_listing(image, platform, found, () if layers else (layers_not_checked(),)))
        return tuple(map(self._with_proxy_note, listings))

    def _locate(self, layer: Blob, image: ImageMetadata) -> _LayerAt:
        return self._reader.repository(image.reference.repository), layer

    def _check_layers(self, layers: Sequence[_LayerAt], *, deep: bool) -> dict[_LayerAt, Fault | None]:
        """A deep check does not use the cache: only both ends of a cached layer were read."""
        cached = dict.fromkeys(at for at in layers if not deep and self._layer_cache.has(*at))
        unknown = [at for at in layers if at not in cached]
        faults = self._run_all(lambda at: self._probe.check(*at, deep=deep), unknown, "Checking layers")
        checked = dict(zip(unknown, faults, strict=True))
        self._layer_cache.add(checked)
        if cached:
            text = f"{len(cached)} of {len(layers)} layers were complete in a recent check and are not checked again"
            self._on_event(Event(phase="catalog", kind="note", text=f"{text}; use --fresh to check them"))
        return cached | checked

    def _with_proxy_note(self, entry: Listing) -> Listing:
        """Say that a proxy is used where the image is not complete: the answer may be the proxy's."""
        if self._proxy is None or entry.report.state in {SyncState.COMPLETE, SyncState.COLD}:
            return entry
        problems = (*entry.report.problems, *self._proxy_problems(entry.report.problems))
        report, image = (one.model_copy(update={"problems": problems}) for one in (entry.report, entry.image))
        return entry.model_copy(update={"image": image, "report": report})


def _layers_to_check(image: ImageMetadata) -> tuple[Blob, ...]:
    """Return the layers of the image; none if it is built for another platform."""
    absent = image.fault is not None and image.fault.state is SyncState.ABSENT
    return () if image.manifest is None or absent else image.manifest.own_layers


def build_listing(
    image: ImageMetadata, platform: str, found: Mapping[Blob, Fault | None], others: Iterable[Fault] = ()
) -> Listing:
    """Build the catalog entry of an image.

    `found`: the fault of each layer that was checked, None if there is none. `others`: further faults of the image.
    """
    findings = dict(found)
    if image.manifest is not None and image.config is not None:
        findings[image.manifest.config] = None
    faults = [*([] if image.fault is None else [image.fault]), *others]
    report = build_sync_report(str(image.reference), platform, image.manifest, findings, faults)
    return Listing(image=_tagged_image(image, report), report=report, config=image.config)


def _tagged_image(image: ImageMetadata, report: SyncReport) -> TaggedImage:
    config = image.config
    return TaggedImage(
        reference=report.reference,
        sync=report.state,
        digest=report.digest,
        platforms=image.platforms,
        env=None if config is None else config.env,
        labels=None if config is None else config.labels,
        history=None if config is None else config.history,
        volumes=() if config is None else config.volumes,
        problems=report.problems,
    )
