"""The sync state of an image, aggregated from the results of the checks of its parts."""

from collections.abc import Iterable, Mapping

from provisioner.domain.registry.image_problems import Fault
from provisioner.domain.registry.manifest import Blob, ImageManifest
from provisioner.domain.values.sync import SyncReport, SyncState

# Order of severity where an image has several faults: a definite "no" comes before every "unknown".
_BY_SEVERITY = (
    SyncState.ABSENT,
    SyncState.PARTIAL,
    SyncState.NO_SUCH_SERVICE,
    SyncState.DENIED,
    SyncState.LIMITED,
    SyncState.UNKNOWN,
    SyncState.STALE,
    SyncState.COLD,
)


def build_sync_report(
    reference: str,
    platform: str,
    manifest: ImageManifest | None,
    findings: Mapping[Blob, Fault | None],
    others: Iterable[Fault] = (),
) -> SyncReport:
    """Build the report of one image from the faults of its parts.

    `findings`: the fault of each checked part, None where the part is available. `others`: faults of the whole image.
    The state is COMPLETE only if a manifest was read and every part of it was checked and available.
    """
    parts = () if manifest is None else manifest.parts
    found = [fault for blob in parts if (fault := findings.get(blob)) is not None]
    faults = tuple(dict.fromkeys((*others, *found)))
    missing = {fault.missing: fault.size for fault in faults if fault.missing is not None}
    all_checked = manifest is not None and all(blob in findings for blob in parts)
    state = next((s for s in _BY_SEVERITY if any(fault.state is s for fault in faults)), None)
    return SyncReport(
        reference=reference,
        platform=platform,
        state=state or (SyncState.COMPLETE if all_checked and not faults else SyncState.UNKNOWN),
        digest=None if manifest is None else manifest.digest,
        bytes=0 if manifest is None else manifest.size,
        bytes_missing=sum(missing.values()),
        missing=tuple(missing),
        problems=tuple(dict.fromkeys(fault.problem for fault in faults)),
    )
