"""Pulling an image by its digest, with progress in bytes, and checking its layers."""

from __future__ import annotations

import re
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
DOWNLOADED = ("Download complete", "Extracting", "Pull complete", "Already exists")
TRIES = 2
PAUSE = 5
ENGINE_SECONDS = 60
# Seconds for which a registry that does not answer is waited for, in all, beside the tries of the engine itself: it
# gives up after five of them, in 75 s.
REGISTRY_WAIT = 225
REGISTRY_PAUSE = 15  # between two tries meanwhile
# Messages of Go's net and net/http, as the engine passes them on. A registry that answers with an error is no match.
NO_ANSWER = re.compile(
    "connection refused|connection reset by peer|broken pipe|i/o timeout|TLS handshake timeout|Client.Timeout exceeded"
    "|context deadline exceeded|no route to host|network is unreachable|connection timed out"
)

# Of containerd, about content that its store should have; the engine passes it on (moby issues 46077, 52411).
LOST_CONTENT = re.compile("content digest sha256:[0-9a-f]{64}: not found")


class PullProgress:
    """How much of an image was downloaded and unpacked, from the engine's messages about each layer."""

    def __init__(self) -> None:
        """Start with no layers."""
        self._sizes: dict[str, tuple[int, int]] = {}
        self._states: dict[str, tuple[Any, Any]] = {}
        self.changed = time.monotonic()

    def update(self, message: dict[str, Any]) -> None:
        """Count one progress message of the engine."""
        layer, detail, status = message.get("id", ""), message.get("progressDetail") or {}, message.get("status")
        if status in DOWNLOADING and "current" in detail:
            self._sizes[layer] = (detail["current"], detail.get("total", 0))
        elif status in ("Download complete", "Pull complete") and layer in self._sizes:
            size = max(self._sizes[layer])
            self._sizes[layer] = (size, size)
        state = (status, detail.get("current"))
        if layer and not str(status).startswith("Pulling from ") and self._states.get(layer) != state:
            self._states[layer], self.changed = state, time.monotonic()

    @property
    def done(self) -> int:
        """Downloaded bytes."""
        return sum(done for done, _ in self._sizes.values())

    @property
    def total(self) -> int:
        """Bytes of all layers that are known to be downloaded."""
        return sum(total for _, total in self._sizes.values())

    @property
    def step(self) -> str:
        """Return `pulling`, and `unpacking layer 3 of 6` from the moment when nothing is left to download.

        Before that moment the engine unpacks and downloads at once, and the bytes show that it goes on. Layers that
        the node has already are not counted.
        """
        states = [status for status, _ in self._states.values() if status != "Already exists"]
        if not states or any(status not in DOWNLOADED for status in states):
            return "pulling"
        return f"unpacking layer {min(states.count('Pull complete') + 1, len(states))} of {len(states)}"

    def __str__(self) -> str:
        """Return `after X of Y GB`."""
        return f"after {self.done / 1e9:.2f} of {self.total / 1e9:.2f} GB"


def pull(order: dict[str, Any], report: Report, patience: float = REGISTRY_WAIT) -> None:
    """Pull the image of the order unless the node has it.

    An engine keeps the layers that it has unpacked, so each try goes on with those that are missing. A registry that
    does not answer is waited for, `patience` seconds in all; time in which bytes come does not count. Any other error
    is tried once more.

    Raises ProblemError `pull_failed`, `image_incomplete` when the store of the engine has lost a part of the image that
    it does not pull again, and `rootfs_mismatch` when the layers differ from the lock.
    """
    image = order["image"]
    deadline = time.monotonic() + order["deadlines"]["pull"]
    tries = TRIES
    while True:
        layers, begun = PullProgress(), time.monotonic()
        try:
            if engine.image(image["reference"]) is None:
                _pull_once(image, deadline, report, layers)
            break
        except ProblemError as fault:
            waits = bool(NO_ANSWER.search(str(fault))) and patience > 0
            tries -= not waits
            pause = min(REGISTRY_PAUSE, patience) if waits else PAUSE
            if not tries or time.monotonic() + pause > deadline:
                if lost := LOST_CONTENT.search(str(fault)):
                    raise engine.image_incomplete(image["reference"], lost[0]) from None
                raise
            wait = f"the registry does not answer: waiting for it, up to {patience:.0f} s more"
            report(wait if waits else f"retrying: {fault}")
            time.sleep(pause)
            if waits:
                patience -= pause if layers.done else time.monotonic() - begun
            engine.wait_for_engine(ENGINE_SECONDS)  # the engine may have been killed and be restarting
    _check_layers(image)


def _pull_once(image: dict[str, Any], deadline: float, report: Report, layers: PullProgress) -> None:
    report("pulling", 0, image["bytes"] or None)
    stall = min(STALL, max(deadline - time.monotonic(), 0.1))
    for message in engine.pull(image["reference"], image["platform"], stall):
        layers.update(message)
        # Layers that are on the node already are not downloaded, so the sum may stay below the image's size.
        report(layers.step, layers.done, image["bytes"] or layers.total)
        if time.monotonic() > deadline:
            raise engine.pull_failed(image["reference"], f"timed out {layers}")
        if time.monotonic() - layers.changed > STALL:
            raise engine.pull_failed(image["reference"], f"no progress for {STALL} s {layers}")


def _check_layers(image: dict[str, Any]) -> None:
    found = engine.image(image["reference"])
    if found is None:
        if engine.is_incomplete(image["reference"]):
            raise engine.image_incomplete(image["reference"], "its configuration is missing")
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
