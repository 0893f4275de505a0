"""Builders of domain values with defaults: a test sets only the fields that it depends on."""

import hashlib
from typing import Any

from provisioner.domain.lab.lab import Lab
from provisioner.domain.lab.lock import LockedEnvironment, LockedImage, LockedNode, Lockfile
from provisioner.domain.self_service.config import PublicationSource
from provisioner.domain.values.limits import Capacity
from provisioner.domain.values.node import EngineFacts, Gpu, Lease, NodeFacts, SelfServiceFacts
from provisioner.domain.values.version import ComputeCapability, DriverVersion

# A machine of 64 GB, some of which its firmware keeps.
CAPACITY = Capacity(memory=67_270_000_000, cpus=16, open_files=524288)
TAG = "mirror.lab:5200/pytorch/pytorch:2.10.0-cuda12.8-cudnn9-runtime"


def a_digest(text: str) -> str:
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def a_uuid(text: str) -> str:
    digest = hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
    return f"GPU-{digest[:8]}-{digest[8:12]}-{digest[12:16]}-{digest[16:20]}-{digest[20:]}"


def a_gpu(node: str = "n1", index: int = 0, capability: str = "8.9", **over: Any) -> Gpu:
    given = {
        "index": index,
        "uuid": a_uuid(f"{node}/{index}"),
        "name": "NVIDIA GeForce RTX 4090",
        "brand": "geforce",
        "compute_capability": ComputeCapability(capability),
        "memory_total": 24 << 30,
        "memory_used": 0,
        "processes": (),
    }
    return Gpu(**(given | over))


def a_node(name: str = "n1", **over: Any) -> NodeFacts:
    given = {
        "name": name,
        "hostname": name,
        "addresses": ("198.18.0.11",),
        "driver": DriverVersion("570.172.08"),
        "kernel_module": "open",
        "toolkit_mode": "legacy",
        "gpus": (a_gpu(name),),
        "pci_gpus": 1,
        "engine": EngineFacts(version="26.1.5", compose_version="2.26.1", free_bytes=500 << 30, capacity=CAPACITY),
        "clock_offset": 0.0,
    }
    return NodeFacts(**(given | over))


def a_lease(person: str = "anna", **over: Any) -> Lease:
    given = {"seat": f"ml_{person}", "person": person, "uid": 5001, "gpus": (a_uuid("gpu1/0"),), "state": "active"}
    return Lease(**{**given, "left_s": 5400, "environment": "default", "version": "0" * 12, **over})


def self_service_facts(**over: Any) -> SelfServiceFacts:
    """The broker of a node with two GPUs for leases runs."""
    pool = (a_uuid("gpu1/0"), a_uuid("gpu1/1"))
    return SelfServiceFacts(**{"lab": "ml", "runs": True, "started_by": "systemd", "pool": pool, **over})


def a_lab(**over: Any) -> Lab:
    given = {
        "name": "demo",
        "mirror": {"address": "mirror.lab:5200"},
        "registry": {"address": "registry.lab:5201"},
    }
    return Lab.model_validate(given | over)


def a_locked_image(reference: str = TAG, **over: Any) -> LockedImage:
    given = {
        "reference": reference,
        "base": f"mirror.lab:5200/pytorch/pytorch@{a_digest(reference)}",
        "lab": f"registry.lab:5201/provisioner/lab@{a_digest(reference + ' lab')}",
        "platform": "linux/amd64",
        "torch": "2.10.0",
        "cuda": "12.8",
        "bytes": 4_260_000_000,
    }
    return LockedImage.model_validate(given | over)


def a_lock(*images: LockedImage, nodes: dict[str, LockedNode] | None = None) -> Lockfile:
    return Lockfile(
        lab="demo",
        mirror="mirror.lab:5200",
        data_version="2026-11-23",
        torch="2.10.0",
        images=images or (a_locked_image(),),
        nodes=nodes or {},
    )


def a_lock_of(**images: LockedImage) -> Lockfile:
    """Return a lock with an image for each environment, by its name."""
    others = {name: LockedEnvironment(images=(image,)) for name, image in images.items() if name != "default"}
    lock = a_lock(*(image for name, image in images.items() if name == "default"))
    return lock.model_copy(update={"environments": others})


def publication_source(
    lab: Lab, node: NodeFacts | None = None, pool: tuple[str, ...] = (), ca: str | None = None, **images: LockedImage
) -> PublicationSource:
    """Return what the configuration of a node is made from. `images`: by environment, in the lock and on the node."""
    found = images or {"default": a_locked_image()}
    lock = a_lock_of(**found).model_copy(update={"registry_ca": ca})
    return PublicationSource(lab, lock, node or a_node(), found, pool)
