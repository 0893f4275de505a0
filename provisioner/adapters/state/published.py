"""What earlier runs of a lab have published as self-service, by the records of these runs on this machine."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from provisioner.adapters.state.journal import list_started_runs
from provisioner.domain.rollout.publish import PublicationOrder
from provisioner.domain.self_service.config import SelfServiceConfig


class _Record(NamedTuple):
    """An order of a run, and its documents by digest; as JSON, since few of them are used.

    `digest`: of its configuration. `was`: that of the one that the node had before; empty in a rollback.
    """

    node: str
    digest: str
    was: str
    order: dict[str, Any]
    documents: dict[str, Any]

    def read(self) -> PublicationOrder | None:
        """Return the order, None where it is damaged."""
        with suppress(ValidationError, KeyError, TypeError, AttributeError):
            documents = {name: self.documents[digest] for name, digest in self.order["documents"].items()}
            return PublicationOrder.model_validate({**self.order, "documents": documents})
        return None


class PublishedRuns:
    """The publications of earlier runs. Their records are read as far back as needed; a damaged one is left out."""

    def __init__(self, lab: str) -> None:
        """Read nothing yet."""
        self._lab = lab
        self._records_of: dict[Path, list[_Record]] = {}  # by the folder of the run

    def config(self, digest: str) -> SelfServiceConfig | None:
        """Return the configuration with this digest, None where no run on this machine has published it."""
        found = (record.read() for record in self._records() if record.digest == digest)
        return next((order.config for order in found if order is not None), None)

    def before(self, node: str, digest: str) -> PublicationOrder | None:
        """Return what the node had before the configuration with this digest; None where that is not known.

        A rollback is no publication of its own: after one, there is no further way back than before.
        """
        later = (one.was for one in self._records() if one.node == node and one.digest == digest)
        was = next((one for one in later if one not in {"", digest}), None)
        found = (one.read() for one in self._records() if one.node == node and one.digest == was)
        return next((order for order in found if order is not None), None)

    def _records(self) -> Iterator[_Record]:
        """Yield what was to be published, the latest first."""
        for folder in reversed(list_started_runs(self._lab)):
            if folder not in self._records_of:
                self._records_of[folder] = list(_read(folder / "undertaking.json"))
            yield from self._records_of[folder]


def _read(path: Path) -> Iterator[_Record]:
    """Yield the publications of a run."""
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        spec = json.loads(path.read_bytes())
        documents, is_rollback = spec.get("documents", {}), spec["verb"] == "rollback"
        was = {one["node"]: "" if is_rollback else one["was"] for one in spec["plan"].get("publications", ())}
        for node, order in spec.get("publications", {}).items():
            digest = hashlib.sha256(json.dumps(order["config"], sort_keys=True).encode()).hexdigest()
            yield _Record(node, digest, was[node], order, documents)
