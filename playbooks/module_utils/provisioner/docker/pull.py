"""Getting an image onto the node by its digest, with the bytes counted, and proving that it is the one."""

from __future__ import annotations

import time
from typing import Any

from ansible.module_utils.provisioner.base.problem import ProblemError
from ansible.module_utils.provisioner.base.progress import Report
from ansible.module_utils.provisioner.docker import engine

STALL = 300  # seconds without any news from the engine: a registry that stalls says nothing at all
TRIES = 2
PAUSE = 5
ENGINE_SECONDS = 60


class PullProgress:
    """How much of an image has arrived, from what the engine tells of each layer."""

    def __init__(self) -> None:
        self._sizes: dict[str, tuple[int, int]] = {}
        self.unpacking = False

    def update(self, news: dict[str, Any]) -> None:
        layer, detail = news.get("id", ""), news.get("progressDetail") or {}
        if news.get("status") == "Downloading" and "current" in detail:
            self._sizes[layer] = (detail["current"], detail.get("total", 0))
        elif news.get("status") in ("Download complete", "Pull complete") and layer in self._sizes:
            size = max(self._sizes[layer])
            self._sizes[layer] = (size, size)
        self.unpacking = news.get("status") == "Extracting"

    @property
    def done(self) -> int:
        return sum(done for done, _ in self._sizes.values())

    @property
    def total(self) -> int:
        return sum(total for _, total in self._sizes.values())


def pull(order: dict[str, Any], report: Report) -> None:
    """Raises ProblemError `pull_failed`, or `rootfs_mismatch` where the layers are not those that were locked."""
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
            report(f"once more, because {fault}")
            time.sleep(PAUSE)
            engine.wait_for_engine(ENGINE_SECONDS)  # it may have been killed, and be starting anew
    _check_layers(image)


def _pull_once(image: dict[str, Any], deadline: float, report: Report) -> None:
    layers = PullProgress()
    report("pulling", 0, image["bytes"] or None)
    patience = min(STALL, max(deadline - time.monotonic(), 0.1))
    for news in engine.pull(image["reference"], image["platform"], patience):
        layers.update(news)
        # What is on the node already is never downloaded, so the sum may end below the image's size.
        report("unpacking" if layers.unpacking else "pulling", layers.done, image["bytes"] or layers.total)
        if time.monotonic() > deadline:
            raise _too_slow(image["reference"], layers)


def _check_layers(image: dict[str, Any]) -> None:
    found = engine.image(image["reference"])
    if found is None:
        raise engine.pull_failed(image["reference"], "the engine does not know it after the pull")
    layers = found["RootFS"].get("Layers", [])
    if image["rootfs"] and layers != image["rootfs"]:
        raise ProblemError(
            "rootfs_mismatch",
            f"{image['reference']} unpacks to other layers than were locked",
            f"the engine has {len(layers)} layers ending in {layers[-1:]}, the lock {len(image['rootfs'])} ending in"
            f" {image['rootfs'][-1:]}: the registry, or the node's image store, does not hold what was locked",
            f"remove it on the node (docker rmi {image['reference']}) and try again; if it stays, make the lock again",
        )


def _too_slow(reference: str, layers: PullProgress) -> ProblemError:
    return engine.pull_failed(reference, f"time was up after {layers.done / 1e9:.2f} of {layers.total / 1e9:.2f} GB")
