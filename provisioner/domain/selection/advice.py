"""What one change would win: computed by choosing again with that change, never canned.

A change counts where it serves a node or a card more, makes the group more uniform, or brings a newer torch. None is
advised that would make another card of the same machine vanish.
"""

from collections.abc import Iterator, Mapping
from typing import Literal

from provisioner.domain.compatibility.gpu import min_driver
from provisioner.domain.selection.choice import Outcome, places
from provisioner.domain.selection.matrix import Fitting, Machine
from provisioner.domain.selection.node_classes import Gain, Situation
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
]
# States that time alone may mend.
_PASSING = {SyncState.PARTIAL, SyncState.COLD, SyncState.LIMITED, SyncState.STALE}
_FLIPPED: dict[KernelModule, tuple[KernelModule, AdviceCode]] = {
    "open": ("proprietary", "proprietary_kernel_module"),
    "proprietary": ("open", "open_kernel_module"),
}


class Advice(Value):
    """`gains` is the tag that the change wins; `node` is None where it is not about one node; `gpu` is a place.

    `why` says what is won, and goes on after "then".
    """

    code: AdviceCode
    node: str | None = None
    gpu: int | None = None
    to: str | None = None
    gains: str
    why: str


def advise(lab: Situation) -> tuple[Advice, ...]:
    found = {*_upgrades(lab), *_single_changes(lab), *_without_cards(lab), *_without_nodes(lab), *_syncs(lab)}
    return tuple(sorted(found, key=lambda one: (one.code, one.node or "", one.gpu or 0, one.to or "", one.gains)))


def _upgrades(lab: Situation) -> Iterator[Advice]:
    """One driver for all nodes that are older: the oldest that wins something, and each newer one that wins more."""
    best: Gain | None = None
    for driver in _steps(lab):
        changed = {
            node: fitting
            for node in lab.groups
            if node.driver is None or node.driver < driver
            for fitting in [_changed(lab, node, {"driver": driver})]
            if fitting is not None
        }
        gain = lab.gain(changed)
        if gain is not None and (best is None or gain.after.worth > best.after.worth):
            best = gain
            yield from _told(lab, gain, changed, "upgrade_driver", str(driver))


def _steps(lab: Situation) -> list[DriverVersion]:
    """Drivers at which a tag or a card of this group begins to run, oldest first."""
    data = lab.matrix.data
    cudas = {image.cuda.key[:2]: image.cuda for image in lab.matrix.images if image.cuda}.values()
    own = {card for node in lab.groups for card in lab.matrix.cards(node)}
    floors = {
        *(data.driver_floor(cuda) for cuda in cudas),
        *(data.toolkit_driver(cuda) for cuda in cudas),
        *(min_driver(card, data) for card in own),
    }
    return sorted({data.first_driver(floor) for floor in floors if floor is not None})


def _changed(lab: Situation, node: Machine, change: Mapping[str, object]) -> Fitting | None:
    """The node after a change; None where it has no card, or where one vanishes that is driven now."""
    after = node.model_copy(update=change)
    return lab.matrix.fit(after) if node.gpus and lab.matrix.visible(after) >= lab.matrix.visible(node) else None


def _in_need(lab: Situation, outcome: Outcome, changed: Mapping[Machine, Fitting]) -> dict[Machine, Fitting]:
    """The nodes that could not run their new tag, or not on that many cards, without the change."""
    return {
        node: after
        for node, after in changed.items()
        for before in [lab.fittings[node]]
        if (place := outcome.chosen.get(after.kind)) is not None
        and (not before.kind.runs >> place & 1 or len(before.kept) < len(after.kept))
    }


def _told(
    lab: Situation, gain: Gain, changed: Mapping[Machine, Fitting], code: AdviceCode, to: str | None
) -> Iterator[Advice]:
    needed = _in_need(lab, gain.after, changed)
    gain = lab.gain(needed) or gain  # without the nodes that need no change
    for node, after in needed.items():
        place = gain.after.chosen[after.kind]
        yield from (_advice(lab, code, place, gain.words(), node=each.name, to=to) for each in lab.groups[node])


def _advice(  # noqa: PLR0913  (one for each field)
    lab: Situation,
    code: AdviceCode,
    place: int,
    why: str,
    *,
    node: str | None = None,
    gpu: int | None = None,
    to: str | None = None,
) -> Advice:
    image = lab.matrix.images[place]
    waits = code not in {"sync_tag", "wait_for_sync"} and not lab.matrix.complete >> place & 1
    later = f", once the mirror, where it is {image.sync.replace('_', ' ')}, has it complete" if waits else ""
    return Advice(code=code, node=node, gpu=gpu, to=to, gains=image.reference, why=why + later)


def _single_changes(lab: Situation) -> Iterator[Advice]:
    """Of one kind of node: back to the last branch of its oldest card, or to the other kernel module."""
    for node in lab.groups:
        if len(lab.matrix.visible(node)) == len(node.gpus):
            continue
        for code, to, change in _changes(lab, node):
            fitting = _changed(lab, node, change)
            gain = None if fitting is None else lab.gain({node: fitting})
            if fitting is not None and gain is not None:
                yield from _told(lab, gain, {node: fitting}, code, to)


def _changes(lab: Situation, node: Machine) -> Iterator[tuple[AdviceCode, str | None, Mapping[str, object]]]:
    data = lab.matrix.data
    architectures = [data.architecture(gpu.compute_capability) for gpu in node.gpus]
    last = min((one.last_branch for one in architectures if one and one.last_branch is not None), default=None)
    driver = data.last_driver(last) if last is not None else None
    if driver is not None and node.driver is not None and node.driver > driver:
        yield "downgrade_driver", str(driver), {"driver": driver}
    if node.kernel_module is not None:
        flavour, code = _FLIPPED[node.kernel_module]
        yield code, None, {"kernel_module": flavour}


def _without_cards(lab: Situation) -> Iterator[Advice]:
    """Cards already left out are named; of others, those whose absence wins something."""
    now = lab.choose(lab.fittings, lab.matrix.now)
    for node, fitting in lab.fittings.items():
        if (place := now.chosen.get(fitting.kind)) is not None:
            for gpu in fitting.left_out:
                yield from _without(
                    lab, node, gpu, place, f"no tag runs on {gpu.name}; the node's other cards are served"
                )
        for gpu in fitting.kept if len(fitting.kept) > 1 else ():
            after = lab.matrix.fit(node.model_copy(update={"gpus": tuple(each for each in node.gpus if each != gpu)}))
            outcome = lab.choose({**lab.fittings, node: after}, lab.matrix.now)
            if outcome.worth > now.worth and after.kind in outcome.chosen:
                yield from _without(lab, node, gpu, outcome.chosen[after.kind], Gain(now, outcome).words())


def _without(lab: Situation, node: Machine, gpu: GpuProfile, place: int, why: str) -> Iterator[Advice]:
    for each in lab.groups[node]:
        for at, own in enumerate(each.gpus):
            if own == gpu:
                yield _advice(lab, "exclude_gpu", place, why, node=each.name, gpu=at)


def _without_nodes(lab: Situation) -> Iterator[Advice]:
    """Few nodes (one, or a quarter of the group) that alone keep all the others from a better tag."""
    now = lab.choose(lab.fittings, lab.matrix.now)
    served = {node: fitting.kind for node, fitting in lab.fittings.items() if fitting.kind in now.chosen}
    seen = set()
    for place in places(lab.matrix.now):
        out = tuple(node for node, kind in served.items() if not kind.runs >> place & 1)
        count = sum(len(lab.groups[node]) for node in out)
        if out in seen or not 0 < count <= max(1, now.served // 4) or count == now.served:
            continue
        seen.add(out)  # a worse tag for the same nodes is no news
        rest = lab.choose({node: fitting for node, fitting in lab.fittings.items() if node not in out}, lab.matrix.now)
        if rest.worth[1:] > now.worth[1:]:
            won = min(rest.chosen.values())
            why = f"for the others {Gain(now._replace(served=rest.served), rest).words()}"
            names = (each.name for node in out for each in lab.groups[node])
            yield from (_advice(lab, "exclude_node", won, why, node=name) for name in names)


def _syncs(lab: Situation) -> Iterator[Advice]:
    """The one tag whose completion would win most."""
    before = lab.choose(lab.fittings, lab.matrix.now)
    after = [
        (lab.choose(lab.fittings, lab.matrix.now | 1 << place), -place)
        for place in places(lab.matrix.wanted & ~lab.matrix.complete)
    ]
    best, place = max(after, key=lambda one: (one[0].worth, one[1]), default=(before, 0))
    if best.worth > before.worth:
        why = Gain(before, best).words()
        yield _advice(lab, "sync_tag", -place, why)
        if lab.matrix.images[-place].sync in _PASSING:
            yield _advice(lab, "wait_for_sync", -place, why)
