"""Fetch images before a rollout: they are pulled and kept, and nothing that runs on the node changes."""

from __future__ import annotations

import os
from functools import partial
from typing import Any

from ansible.module_utils.provisioner.base.progress import Report
from ansible.module_utils.provisioner.docker import engine
from ansible.module_utils.provisioner.docker.pull import pull
from ansible.module_utils.provisioner.docker.trust import install_ca
from ansible.module_utils.provisioner.jobs.jobfile import Job
from ansible.module_utils.provisioner.seat.precheck import check_disk_space, check_engine
from ansible.module_utils.provisioner.seat.seat import ordered_cas
from ansible.module_utils.provisioner.transaction.retention import KEEP_REPOSITORY, drop_image, fetched_tag


def fetch(order: dict[str, Any], job: Job) -> dict[str, Any]:
    """Pull each of the `images` of the order, keep them from `docker image prune`, and return the record.

    Images that an earlier order of the lab has fetched, and that are not among the digests in `keep`, are given up.
    Raises ProblemError at the first image that cannot be pulled; those before it stay.
    """
    lab = order["lab"]
    _give_up(lab, {fetched_tag(lab, digest) for digest in order["keep"]})
    lacking = [one for one in order["images"] if engine.image(one["image"]["reference"]) is None]
    for number, one in enumerate(order["images"], 1):
        _fetch({**one, "state_root": order["state_root"]}, f"image {number} of {len(order['images'])}: ", job.report)
        reference = one["image"]["reference"]
        engine.tag(reference, KEEP_REPOSITORY, fetched_tag(lab, reference.rpartition("@")[2]))
    return {"state": "committed" if lacking else "unchanged"}


def _fetch(order: dict[str, Any], prefix: str, report: Report) -> None:
    info, image, registry = check_engine(), order["image"], order["registry"]
    check_disk_space(info, 0 if engine.image(image["reference"]) else image["bytes"])
    if registry["ca"] and os.geteuid() == 0:  # other users install it themselves
        install_ca(registry, ordered_cas(order["state_root"], registry["address"]))
    pull(order, partial(_report, report, prefix))


def _report(report: Report, prefix: str, text: str, done: int | None = None, total: int | None = None) -> None:
    report(prefix + text, done, total)


def _give_up(lab: str, wanted: set[str]) -> None:
    """Give up the images that were fetched for the lab under other tags than those wanted."""
    pattern = f"{KEEP_REPOSITORY}:{fetched_tag(lab, '')}*"
    for image in engine.get("/images/json", filters={"reference": [pattern]}) or ():
        for name in image.get("RepoTags") or ():
            tag = name.rpartition(":")[2]
            if tag.startswith(fetched_tag(lab, "")) and tag not in wanted:
                for reference in image.get("RepoDigests") or (name,):
                    drop_image(reference, tag)
