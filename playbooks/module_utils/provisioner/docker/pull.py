"""Pulling an image by its digest, with progress in bytes, and checking its layers."""

from __future__ import annotations

import time
from typing import Any

from ansible.module_utils.provisioner.base.problem import ProblemError
from ansible.module_utils.provisioner.base.progress import Report
from ansible.module_utils.provisioner.docker import engine

# Seconds without progress. A registry that stalls sends nothing; the engine then sends no message with its own image
# store, and with containerd's the same ones again (moby: daemon/containerd/progress.go).
STALL = 300
# With containerd's image store a layer may have the second status.
DOWNLOADING = ("Downloading", "Pulling layer fs")
TRIES = 2
PAUSE = 5
ENGINE_SECONDS = 60


class PullProgress:
    """How much of an image was downloaded, from the engine's messages about each layer."""

    def __init__(self) -> None:
        """Start with no layers."""
        self._sizes: dict[str, tuple[int, int]] = {}
        self._states: dict[str, tuple[Any, Any]] = {}
        self.unpacking = False
        self.changed = time.monotonic()

    def update(self, message: dict[str, Any]) -> None:
        """Count one progress message of the engine."""
        layer, detail, status = message.get("id", ""), message.get("progressDetail") or {}, message.get("status")
        if status in DOWNLOADING and "current" in detail:
            self._sizes[layer] = (detail["current"], detail.get("total", 0))
        elif status in ("Download complete", "Pull complete") and layer in self._sizes:
            size = max(self._sizes[layer])
            self._sizes[layer] = (size, size)
        self.unpacking = status == "Extracting"
        state = (status, detail.get("current"))
        if self._states.get(layer) != state:
            self._states[layer], self.changed = state, time.monotonic()

    @property
    def done(self) -> int:
        """Downloaded bytes."""
        return sum(done for done, _ in self._sizes.values())

    @property
    def total(self) -> int:
        """Bytes of all layers that are known to be downloaded."""
        return sum(total for _, total in self._sizes.values())

    def __str__(self) -> str:
        """Return `after X of Y GB`."""
        return f"after {self.done / 1e9:.2f} of {self.total / 1e9:.2f} GB"


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
            raise engine.pull_failed(image["reference"], f"timed out {layers}")
        if time.monotonic() - layers.changed > STALL:
            raise engine.pull_failed(image["reference"], f"no progress for {STALL} s {layers}")


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
