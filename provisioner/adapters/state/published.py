"""What earlier runs of a lab have published as self-service, by the records of these runs on this machine."""

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

    `was`: the digest of the configuration that the node had before; empty in a rollback.
    """

    node: str
    was: str
    order: dict[str, Any]
    documents: dict[str, Any]

    def read(self) -> PublicationOrder:
        documents = {name: self.documents[digest] for name, digest in self.order["documents"].items()}
        return PublicationOrder.model_validate({**self.order, "documents": documents})


class PublishedRuns:
    """The publications of earlier runs. Their records are read as far back as needed; a damaged one is left out."""

    def __init__(self, lab: str) -> None:
        """Read nothing yet."""
        self._lab = lab
        self._records_of: dict[Path, list[_Record]] = {}  # by the folder of the run

    def config(self, digest: str) -> SelfServiceConfig | None:
        """Return the configuration with this digest, None where no run on this machine has published it."""
        return next((config for config, *_ in self._published() if config.digest == digest), None)

    def before(self, node: str, digest: str) -> PublicationOrder | None:
        """Return what the node had before the configuration with this digest; None where that is not known.

        A rollback is no publication of its own: after one, there is no further way back than before.
        """
        found = [(config.digest, record.was, order) for config, order, record in self._published(node)]
        was = next((was for known, was, _ in found if known == digest and was not in {"", digest}), "")
        return next((order for known, _, order in found if known == was), None)

    def _published(self, node: str | None = None) -> Iterator[tuple[SelfServiceConfig, PublicationOrder, _Record]]:
        """Yield what was to be published, the latest first."""
        for record in self._records():
            if node in {None, record.node}:
                with suppress(ValidationError, KeyError, TypeError, AttributeError):
                    order = record.read()
                    if order.config is not None:
                        yield order.config, order, record

    def _records(self) -> Iterator[_Record]:
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
        orders = spec.get("publications", {}).items()
        yield from (_Record(node, was[node], order, documents) for node, order in orders)
