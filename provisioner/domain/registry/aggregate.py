"""From what was found of each part of an image to the state of the whole."""

from collections.abc import Iterable, Mapping

from provisioner.domain.registry.image_problems import Fault
from provisioner.domain.registry.manifest import Blob, ImageManifest
from provisioner.domain.values.sync import SyncReport, SyncState

# Which faults decide what an image is called, where it has several: a certain "no" before every "do not know".
_GRAVEST = (
    SyncState.ABSENT,
    SyncState.PARTIAL,
    SyncState.NO_SUCH_SERVICE,
    SyncState.DENIED,
    SyncState.LIMITED,
    SyncState.UNKNOWN,
    SyncState.STALE,
    SyncState.COLD,
)


def fold(
    reference: str,
    platform: str,
    manifest: ImageManifest | None,
    findings: Mapping[Blob, Fault | None],
    others: Iterable[Fault] = (),
) -> SyncReport:
    """One image's state from what was found of each part.

    `findings`: None for a part that can be had; `others` are faults of the image as a whole. COMPLETE only
    where a manifest was read and every part of it was found good: a part that nobody looked at never counts as there.
    """
    parts = () if manifest is None else manifest.parts
    found = [fault for blob in parts if (fault := findings.get(blob)) is not None]
    faults = tuple(dict.fromkeys((*others, *found)))
    lost = {fault.missing: fault.size for fault in faults if fault.missing is not None}
    all_seen = manifest is not None and all(blob in findings for blob in parts)
    state = next((s for s in _GRAVEST if any(fault.state is s for fault in faults)), None)
    return SyncReport(
        reference=reference,
        platform=platform,
        state=state or (SyncState.COMPLETE if all_seen and not faults else SyncState.UNKNOWN),
        digest=None if manifest is None else manifest.digest,
        bytes=0 if manifest is None else manifest.size,
        bytes_missing=sum(lost.values()),
        missing=tuple(lost),
        problems=tuple(dict.fromkeys(fault.problem for fault in faults)),
    )
