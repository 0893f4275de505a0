"""Pulling an image by its digest, with progress in bytes, and checking its layers."""

from __future__ import annotations

import time
from typing import Any

from ansible.module_utils.provisioner.base.problem import ProblemError
from ansible.module_utils.provisioner.base.progress import Report
from ansible.module_utils.provisioner.docker import engine

STALL = 300  # seconds without a message of the engine: a registry that stalls sends nothing
TRIES = 2
PAUSE = 5
ENGINE_SECONDS = 60


class PullProgress:
    """How much of an image was downloaded, from the engine's messages about each layer."""

    def __init__(self) -> None:
        """Start with no layers."""
        self._sizes: dict[str, tuple[int, int]] = {}
        self.unpacking = False

    def update(self, message: dict[str, Any]) -> None:
        """Count one progress message of the engine."""
        layer, detail, status = message.get("id", ""), message.get("progressDetail") or {}, message.get("status")
        if status == "Downloading" and "current" in detail:
            self._sizes[layer] = (detail["current"], detail.get("total", 0))
        elif status in ("Download complete", "Pull complete") and layer in self._sizes:
            size = max(self._sizes[layer])
            self._sizes[layer] = (size, size)
        self.unpacking = status == "Extracting"

    @property
    def done(self) -> int:
        """Downloaded bytes."""
        return sum(done for done, _ in self._sizes.values())

    @property
    def total(self) -> int:
        """Bytes of all layers that are known to be downloaded."""
        return sum(total for _, total in self._sizes.values())


def pull(order: dict[str, Any], report: Report) -> None:
    """Pull the image of the order unless the node has it.

    Raises ProblemError `pull_failed`, and `rootfs_mismatch` when the layers differ from the lock.
    """
    image = order["image"]
    deadline = time.monotonic() + order["deadlines"]["pull"]
    for attempt in range(1, TRIES + 1):
        try:
            if engine.image(image["reference"]) is not None:
                break
            _pull_once(image, deadline, report)
        except ProblemError as fault:
            if attempt == TRIES or time.monotonic() + PAUSE > deadline:
                raise
            report(f"retrying: {fault}")
            time.sleep(PAUSE)
            engine.wait_for_engine(ENGINE_SECONDS)  # the engine may have been killed and be restarting
    _check_layers(image)


def _pull_once(image: dict[str, Any], deadline: float, report: Report) -> None:
    layers = PullProgress()
    report("pulling", 0, image["bytes"] or None)
    patience = min(STALL, max(deadline - time.monotonic(), 0.1))
    for message in engine.pull(image["reference"], image["platform"], patience):
        layers.update(message)
        # Layers that are on the node already are not downloaded, so the sum may stay below the image's size.
        report("unpacking" if layers.unpacking else "pulling", layers.done, image["bytes"] or layers.total)
        if time.monotonic() > deadline:
            raise _too_slow(image["reference"], layers)


def _check_layers(image: dict[str, Any]) -> None:
    found = engine.image(image["reference"])
    if found is None:
        raise engine.pull_failed(image["reference"], "the engine does not have it after the pull")
    layers = found["RootFS"].get("Layers", [])
    if image["rootfs"] and layers != image["rootfs"]:
        raise ProblemError(
            "rootfs_mismatch",
            f"the layers of {image['reference']} differ from the lock",
            f"the engine has {len(layers)} layers ending in {layers[-1:]}, the lock {len(image['rootfs'])} ending in"
            f" {image['rootfs'][-1:]}: the registry or the node's image store holds other content than the lock",
            f"remove it on the node (docker rmi {image['reference']}) and try again, or make a new lock",
        )


def _too_slow(reference: str, layers: PullProgress) -> ProblemError:
    return engine.pull_failed(reference, f"timed out after {layers.done / 1e9:.2f} of {layers.total / 1e9:.2f} GB")
