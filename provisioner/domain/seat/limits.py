"""The limits of a seat's containers: what lab.yml says, and else a share of what the node has."""

from provisioner.domain.lab.lab import Limits
from provisioner.domain.values.limits import Capacity, OpenFiles, SeatLimits
from provisioner.domain.values.size import Size, size_bytes

_GIB = 1 << 30
# A node has one seat. The rest of its memory is for the kernel, the engine, SSH and the cache of files: without it, a
# program that takes all memory ends the machine's own services instead of itself.
_MEMORY_TENTHS = 9
# One CPU stays free for the engine and for checks; a machine with fewer CPUs than this would lose too much by it.
_SPARES_CPU_FROM = 4
# What programs of users need: loaders of data and editors hold thousands of files. Since containerd 2.1.5 containers
# get 1,024 otherwise (moby#51485). The hard limit is what engines gave before, and the kernel's own (fs.nr_open).
_OPEN_FILES = OpenFiles(soft=65536, hard=1048576)


def build_limits(wanted: Limits, capacity: Capacity) -> SeatLimits:
    """Build the limits of each container of a seat on a node of this capacity.

    What the node does not report is not limited by default.
    """
    memory = _memory(wanted, capacity.memory)
    return SeatLimits(
        memory=memory,
        cpus=_cpus(wanted, capacity.cpus),
        pids=wanted.pids,
        shm=_shared_memory(wanted.shm, memory),
        nofile=_open_files(capacity.open_files),
    )


def choose_capacity(wanted: Limits, held: Capacity | None, now: Capacity) -> Capacity:
    """Choose the capacity that the limits of a seat follow from.

    `held` is that of its generation, None where it has none. It stays in force although the node reports other numbers
    `now` (the memory of a machine differs by some MB from boot to boot), unless the node cannot start a container with
    such limits any more. What the generation does not know is taken from the node.
    """
    completed = with_known(now, held or Capacity())
    return now if _exceeds(build_limits(wanted, completed), now) else completed


def with_known(capacity: Capacity, other: Capacity) -> Capacity:
    """Return a capacity with everything that `other` knows."""
    return capacity.model_copy(update=other.model_dump(exclude_none=True))


def _memory(wanted: Limits, available: int | None) -> Size | None:
    if wanted.memory != "auto":
        return None if wanted.memory == "none" else wanted.memory
    return None if available is None else f"{max(available * _MEMORY_TENTHS // 10 // _GIB, 1)}g"


def _cpus(wanted: Limits, available: int | None) -> float | None:
    """Return the CPUs of a container; an engine refuses to start one with more than the node has."""
    if wanted.cpus == "none":
        return None
    if available is None:
        return None if wanted.cpus == "auto" else wanted.cpus
    if wanted.cpus == "auto":
        return float(available - 1 if available >= _SPARES_CPU_FROM else available)
    return min(wanted.cpus, float(available))


def _shared_memory(wanted: Size, memory: Size | None) -> Size:
    """Return the size of /dev/shm: at most half of the memory, of which it is a part."""
    if memory is None or size_bytes(wanted) * 2 <= size_bytes(memory):
        return wanted
    return f"{max(size_bytes(memory) // 2 >> 20, 1)}m"


def _open_files(hard: int | None) -> OpenFiles | None:
    """Return the lower of what programs need and what the engine may give: it refuses to start a container with more.

    Most engines may exceed their own limit (CAP_SYS_RESOURCE), but then it is no lower than this, either.
    """
    if hard is None:
        return None
    return OpenFiles(soft=min(_OPEN_FILES.soft, hard), hard=min(_OPEN_FILES.hard, hard))


def _exceeds(limits: SeatLimits, now: Capacity) -> bool:
    """Whether the node can no longer start a container with these limits. An engine that names no CPUs limits none."""
    if limits.cpus is not None and (now.cpus is None or limits.cpus > now.cpus):
        return True
    if limits.memory is not None and now.memory is not None and size_bytes(limits.memory) > now.memory:
        return True
    return limits.nofile is not None and now.open_files is not None and limits.nofile.hard > now.open_files
