"""What one change would gain, computed by choosing again with that change.

A change counts if it serves one more node or card, makes the group more uniform, or brings a newer torch. A change that
would make another card of the same machine invisible is never advised.
"""

from collections.abc import Iterator, Mapping
from functools import reduce
from operator import or_
from typing import Literal

from provisioner.domain.compatibility.gpu import proposed_driver
from provisioner.domain.selection.choice import GroupChoice, TagSet, list_ranks
from provisioner.domain.selection.matrix import Fit, Machine
from provisioner.domain.selection.node_classes import Gain, NodeClasses
from provisioner.domain.values.model import Value
from provisioner.domain.values.node import GpuProfile, KernelModule
from provisioner.domain.values.sync import SyncState
from provisioner.domain.values.version import DriverVersion

AdviceCode = Literal[
    "upgrade_driver",
    "downgrade_driver",
    "open_kernel_module",
    "proprietary_kernel_module",
    "exclude_node",
    "exclude_gpu",
    "sync_tag",
    "wait_for_sync",
    "measure_image",
]
# States that may become complete without any action.
_TEMPORARY = {SyncState.PARTIAL, SyncState.COLD, SyncState.LIMITED, SyncState.STALE}
_OTHER_MODULE: dict[KernelModule, tuple[KernelModule, AdviceCode]] = {
    "open": ("proprietary", "proprietary_kernel_module"),
    "proprietary": ("open", "open_kernel_module"),
}


class Advice(Value):
    """`gains` is the tag that the change gains. `node` is None if it is not about one node; `gpu` is an index.

    `why` says what is gained, and continues a sentence after "then".
    """

    code: AdviceCode
    node: str | None = None
    gpu: int | None = None
    to: str | None = None
    gains: str
    why: str


def advise(group: NodeClasses) -> tuple[Advice, ...]:
    """Return every change that gains something, sorted by code, node, GPU, target and tag."""
    found = {
        *_driver_upgrades(group),
        *_machine_changes(group),
        *_gpu_exclusions(group),
        *_node_exclusions(group),
        *_tag_syncs(group),
        *_measurements(group),
    }
    return tuple(sorted(found, key=lambda one: (one.code, one.node or "", one.gpu or 0, one.to or "", one.gains)))


def _driver_upgrades(group: NodeClasses) -> Iterator[Advice]:
    """One driver for all nodes that are older: the oldest that gains something, and each newer one that gains more."""
    best: Gain | None = None
    for driver in _relevant_drivers(group):
        changed = {
            machine: fit
            for machine in group.nodes
            if machine.driver is None or machine.driver < driver
            for fit in [_fit_after(group, machine, {"driver": driver})]
            if fit is not None
        }
        gain = group.gain(changed)
        if gain is not None and (best is None or gain.after.score > best.after.score):
            best = gain
            yield from _node_advice(group, gain, changed, "upgrade_driver", str(driver))


def _relevant_drivers(group: NodeClasses) -> list[DriverVersion]:
    """Return the drivers to install so that a tag or a card of this group runs, oldest first."""
    data = group.matrix.data
    cudas = {image.cuda.key[:2]: image.cuda for image in group.matrix.images if image.cuda}.values()
    own = (card for machine in group.nodes for card in group.matrix.cards(machine))
    cards = {(card.name, card.capability): card for card in own}.values()
    floors = {None, *map(data.driver_floor, cudas), *map(data.toolkit_driver, cudas)}
    proposed = {proposed_driver(card, floor, data) for card in cards for floor in floors}
    return sorted(driver for driver in proposed if driver is not None)


def _fit_after(group: NodeClasses, machine: Machine, change: Mapping[str, object]) -> Fit | None:
    """Judge a machine after a change. None if it has no card, or if a card would become invisible.

    What NVML reports holds for the driver and the module of now only, so it does not count after the change.
    """
    matrix = group.matrix
    after = machine.model_copy(update={**change, "gpus": tuple(map(_planned, machine.gpus))})
    visible = {*map(_planned, matrix.visible(machine))}
    return matrix.fit(after) if machine.gpus and matrix.visible(after) >= visible else None


def _planned(gpu: GpuProfile) -> GpuProfile:
    return gpu.model_copy(update={"reported": False})


def _machines_in_need(group: NodeClasses, choice: GroupChoice, changed: Mapping[Machine, Fit]) -> dict[Machine, Fit]:
    """Return the machines that could not run their new tag, or on fewer cards, without the change."""
    return {
        machine: after
        for machine, after in changed.items()
        for before in [group.fits[machine]]
        if (tag := choice.chosen.get(after.support)) is not None
        and (not before.support.runnable >> tag & 1 or len(before.kept) < len(after.kept))
    }


def _node_advice(
    group: NodeClasses, gain: Gain, changed: Mapping[Machine, Fit], code: AdviceCode, to: str | None
) -> Iterator[Advice]:
    needed = _machines_in_need(group, gain.after, changed)
    alone = group.gain(needed)  # without the machines that need no change
    if alone is not None and all(after.support in alone.after.chosen for after in needed.values()):
        gain = alone
    for machine, after in needed.items():
        tag = gain.after.chosen[after.support]
        yield from (_advice(group, code, tag, gain.describe(), node=node.name, to=to) for node in group.nodes[machine])


def _advice(  # noqa: PLR0913  (one for each field)
    group: NodeClasses,
    code: AdviceCode,
    tag: int,
    why: str,
    *,
    node: str | None = None,
    gpu: int | None = None,
    to: str | None = None,
) -> Advice:
    image = group.matrix.images[tag]
    waits = code not in {"sync_tag", "wait_for_sync"} and not group.matrix.complete >> tag & 1
    later = f", once it is complete on the mirror (now: {image.sync.replace('_', ' ')})" if waits else ""
    return Advice(code=code, node=node, gpu=gpu, to=to, gains=image.reference, why=why + later)


def _machine_changes(group: NodeClasses) -> Iterator[Advice]:
    """Changes of one machine: back to the last driver branch of its oldest card, or to the other kernel module."""
    for machine in group.nodes:
        if len(group.matrix.visible(machine)) == len(machine.gpus):
            continue
        for code, to, change in _possible_changes(group, machine):
            fit = _fit_after(group, machine, change)
            gain = None if fit is None else group.gain({machine: fit})
            if fit is not None and gain is not None:
                yield from _node_advice(group, gain, {machine: fit}, code, to)


def _possible_changes(
    group: NodeClasses, machine: Machine
) -> Iterator[tuple[AdviceCode, str | None, Mapping[str, object]]]:
    data = group.matrix.data
    architectures = [data.architecture(gpu.compute_capability) for gpu in machine.gpus]
    last = min((one.last_branch for one in architectures if one and one.last_branch is not None), default=None)
    driver = data.last_driver(last) if last is not None else None
    if driver is not None and machine.driver is not None and data.branch_of(machine.driver) > driver.major:
        yield "downgrade_driver", str(driver), {"driver": driver}
    if machine.kernel_module is not None:
        flavour, code = _OTHER_MODULE[machine.kernel_module]
        yield code, None, {"kernel_module": flavour}


def _gpu_exclusions(group: NodeClasses) -> Iterator[Advice]:
    """Cards that are already left out, and those whose absence gains something."""
    now = group.choose(group.fits, group.matrix.available)
    for machine, fit in group.fits.items():
        if (tag := now.chosen.get(fit.support)) is not None:
            for gpu in fit.left_out:
                why = f"no tag runs on {gpu.name}; the node's other cards are served"
                yield from _without_gpu(group, machine, gpu, tag, why)
        for gpu in fit.kept if len(fit.kept) > 1 else ():
            after = group.matrix.fit(
                machine.model_copy(update={"gpus": tuple(each for each in machine.gpus if each != gpu)})
            )
            choice = group.choose({**group.fits, machine: after}, group.matrix.available)
            if choice.score > now.score and after.support in choice.chosen:
                yield from _without_gpu(group, machine, gpu, choice.chosen[after.support], Gain(now, choice).describe())


def _without_gpu(group: NodeClasses, machine: Machine, gpu: GpuProfile, tag: int, why: str) -> Iterator[Advice]:
    for node in group.nodes[machine]:
        for at, own in enumerate(node.gpus):
            if own == gpu:
                yield _advice(group, "exclude_gpu", tag, why, node=node.name, gpu=at)


def _node_exclusions(group: NodeClasses) -> Iterator[Advice]:
    """A few nodes (one, or a quarter of the group) that alone keep all the others from a better tag."""
    available = group.matrix.available
    now = group.choose(group.fits, available)
    served = {machine: fit.support.runnable for machine, fit in group.fits.items() if fit.support in now.chosen}
    seen = set()
    for tag in list_ranks(available):
        out = tuple(machine for machine, runnable in served.items() if not runnable >> tag & 1)
        count = sum(len(group.nodes[machine]) for machine in out)
        if out in seen or not 0 < count <= max(1, now.served // 4) or count == now.served:
            continue
        seen.add(out)  # a worse tag for the same nodes adds nothing
        rest = group.choose({machine: fit for machine, fit in group.fits.items() if machine not in out}, available)
        if rest.score[1:] > now.score[1:]:
            best = min(rest.chosen.values())
            why = f"for the others {Gain(now._replace(served=rest.served), rest).describe()}"
            names = (node.name for machine in out for node in group.nodes[machine])
            yield from (_advice(group, "exclude_node", best, why, node=name) for name in names)


def _tag_syncs(group: NodeClasses) -> Iterator[Advice]:
    """The one tag that would gain most if the mirror had it complete."""
    matrix = group.matrix
    before = group.choose(group.fits, matrix.available)
    waiting = list_ranks(matrix.wanted & ~matrix.complete)
    after = {tag: group.choose(group.fits, matrix.available | 1 << tag) for tag in waiting}
    tag = max(after, key=lambda tag: (after[tag].score, -tag), default=None)
    if tag is not None and after[tag].score > before.score:
        why = Gain(before, after[tag]).describe()
        yield _advice(group, "sync_tag", tag, why)
        if matrix.images[tag].sync in _TEMPORARY:
            yield _advice(group, "wait_for_sync", tag, why)


def _measurements(group: NodeClasses) -> Iterator[Advice]:
    """The one image of unknown contents that would gain most if it had code for the cards."""
    matrix = group.matrix
    before = group.choose(group.fits, matrix.available)
    hopeful = {machine: matrix.hopeful(machine, fit) for machine, fit in group.fits.items()}
    unknown = reduce(or_, (tags & ~group.fits[machine].support.runnable for machine, tags in hopeful.items()), 0)
    after = {tag: _choose_with(group, tag, hopeful) for tag in list_ranks(matrix.available & unknown)}
    best = max(after, key=lambda tag: (after[tag].score, -tag), default=None)
    if best is not None and after[best].score > before.score and best in after[best].chosen.values():
        why = f"if it has code for the cards, {Gain(before, after[best]).describe()}"
        yield _advice(group, "measure_image", best, why)


def _choose_with(group: NodeClasses, tag: int, hopeful: Mapping[Machine, TagSet]) -> GroupChoice:
    """Choose as if an image ran on every machine on which only its contents are not known."""
    fits = {
        machine: fit._replace(support=fit.support._replace(runnable=fit.support.runnable | hopeful[machine] & 1 << tag))
        for machine, fit in group.fits.items()
    }
    return group.choose(fits, group.matrix.available)
