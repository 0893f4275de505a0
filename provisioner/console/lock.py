"""A new lock: the selection it was made from, and its difference to the previous one."""

import difflib
from collections.abc import Iterable, Iterator, Mapping

from rich.console import Group, RenderableType
from rich.text import Text

from provisioner.console.selection import better_tags_view, selection_view
from provisioner.console.text import count, safe_block, safe_line
from provisioner.domain.lab.lock import LockedEnvironment, LockedImage, Lockfile, Placement
from provisioner.domain.lab.lock_trust import Consent, LockTrust, TrustChange, VerifiedBy
from provisioner.domain.registry.catalog import Catalog
from provisioner.domain.selection.selection import Selection
from provisioner.domain.values.size import human_size


def lock_view(lock: Lockfile, selection: Selection, catalog: Catalog, width: int) -> Group:
    """Render the selection of `default`, better tags that are incomplete, and its images. `width` in columns."""
    return Group(selection_view(selection, width), better_tags_view(selection, catalog), Text(), *_images(lock.default))


def named_environments_view(lock: Lockfile, choices: Mapping[str, tuple[Selection, Catalog]], width: int) -> Group:
    """Render the environments beside `default`, each as `lock_view` does; nothing in a lab that has none.

    `choices`: of the environments that were selected anew. Of the others only the images are shown.
    """
    return Group(*(part for name in sorted(lock.environments) for part in _environment(lock, name, choices, width)))


def _environment(
    lock: Lockfile, name: str, choices: Mapping[str, tuple[Selection, Catalog]], width: int
) -> Iterator[RenderableType]:
    environment = lock.environments[name]
    yield Text(f"\nEnvironment {name}{_why_unchanged(environment, name in choices)}", "bold")
    if name in choices:
        selection, catalog = choices[name]
        yield from (selection_view(selection, width), better_tags_view(selection, catalog), Text())
    yield from _images(environment)


def _why_unchanged(environment: LockedEnvironment, is_selected: bool) -> str:
    if environment.kept_from:
        return f", kept from {safe_line(environment.kept_from)}"
    return "" if is_selected else ": no node that may run it answered, so that it stays as it was"


def _images(environment: LockedEnvironment) -> Iterator[Text]:
    return (Text.assemble((safe_line(image.reference), "bold"), _pinned(image)) for image in environment.images)


def _pinned(image: LockedImage) -> str:
    size = f"\n  {human_size(image.bytes)} to pull" if image.bytes else ""
    return f"\n  base  {safe_line(image.base)}\n  lab   {safe_line(image.lab)}{size}"


def lock_diff(old: str, new: str, summary: Iterable[str] = ()) -> Text:
    """Render the difference of two lock files' texts, or a line that nothing changes.

    `summary`: lines about what the texts do not show, or show in many lines, as `people_change` says it.
    """
    said = [Text(line) for line in summary if line]
    if old == new and not said:
        return Text("No changes: the lock holds this already.")
    lines = difflib.unified_diff(_lines(old), _lines(new), "lab.lock", "lab.lock", lineterm="", n=2)
    return Text("\n").join([*(Text(safe_block(text), _style(text)) for text in lines), *said])


def environments_change(old: Mapping[str, LockedEnvironment], new: Mapping[str, LockedEnvironment]) -> Iterator[str]:
    """Yield a line for each named environment that a new lock adds, or has no more."""
    for name in sorted(old.keys() | new.keys()):
        if name not in old:
            kept = new[name].kept_from
            yield f"environment {name} is new" + (f": it is what {safe_line(kept)} was" if kept else "")
        elif name not in new:
            yield (
                f"environment {name} goes: lab.yml does not name it any more. Seats keep its image until the next"
                " rollout"
            )


def people_change(old: Mapping[str, Placement], new: Mapping[str, Placement]) -> str:
    """Return how many people are added to a lock, removed, and given another place; an empty text where none is."""
    numbers = {
        "added": len(new.keys() - old.keys()),
        "removed": len(old.keys() - new.keys()),
        "with another place": sum(old[person] != new[person] for person in new.keys() & old.keys()),
    }
    parts = [f"{number} {what}" for what, number in numbers.items() if number]
    return f"{count(len(new), 'place')} of people: {', '.join(parts)}" if parts else ""


def _lines(text: str) -> list[str]:
    return text.removesuffix("\n").split("\n") if text else []


def _style(text: str) -> str:
    if text.startswith(("---", "+++", "@@")):
        return "dim"
    return {"+": "green", "-": "red"}.get(text[:1], "")


_FIELDS = {"lab": "lab", "registry": "registry", "ca": "its CA", "images": "image"}
_VERIFIED_BY = {
    "": "verified by the connection alone",
    "file": "a file of this machine",
    "sha256": "it has the SHA-256 you gave",
}


def consent_view(source: str, trust: LockTrust, consent: Consent, verified_by: VerifiedBy, signer: str | None) -> Text:
    """Render what a published lock brings: all of it at first use, else what differs from what was agreed to."""
    head = "A lock that was not used on this machine before" if consent.is_first else "The lock has changed"
    origin = f"signed by {signer}" if signer else _VERIFIED_BY[verified_by]
    rows = [(change.field, _changed(change)) for change in consent.changes]
    if consent.is_first:
        rows = [
            ("lab", [trust.lab]),
            ("registry", [trust.registry]),
            ("ca", _values("ca", trust.ca)),
            ("images", list(trust.images)),
        ]
    lines = [
        f"\n  {'' if index else _FIELDS[field]:<8}  {safe_line(value)}"
        for field, values in rows
        for index, value in enumerate(values)
    ]
    return Text.assemble((f"{head}: {safe_line(source)} ({safe_line(origin)})", "bold"), *lines)


def _changed(change: TrustChange) -> list[str]:
    before, now = _values(change.field, change.before), _values(change.field, change.now)
    return [f"- {value}" for value in before] + [f"+ {value}" for value in now]


def _values(field: str, values: tuple[str, ...]) -> list[str]:
    if field == "ca":
        return [f"SHA256 {value}" for value in values] or ["none: the certificates of the system count"]
    return list(values)
