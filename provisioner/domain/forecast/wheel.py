"""Wheels of torch on a mirror: the links of an index, and the sync state of each wheel."""

import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from html import unescape
from math import prod
from typing import Self
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

from packaging.utils import InvalidWheelFilename, parse_wheel_filename
from packaging.version import Version
from pydantic import Field

from provisioner.domain.forecast.forecast import Presence
from provisioner.domain.values.model import Document, Value
from provisioner.domain.values.problem import Problem
from provisioner.domain.values.sync import SyncState

WHEELS_SCHEMA = "provisioner/wheels/1"
ZIP_START = b"PK\x03\x04"
ZIP_END = b"PK\x05\x06"
END_SIZE = 22  # bytes of the end record of a zip without a comment, as wheel builders write it (PKWARE APPNOTE 4.3.16)

_ANCHOR = re.compile(r"<a(?=[\s/])", re.IGNORECASE)
_ATTRIBUTES = re.compile(r"""(?:[^>"']|"[^"]*"|'[^']*')*+""")  # up to the first > outside quotes
_HREF = re.compile(r"""[\s"'/]href\s*+=\s*+(?:"([^"]*+)"|'([^']*+)'|([^\s"'<>]++))""", re.IGNORECASE)
_MAX_ANCHOR = 4096  # characters of a tag that are read
_MAX_LINKS = 100_000  # of one page; PyTorch's largest has a third of it
_MAX_NAME = 255  # characters of a file name, as in file systems
_MAX_TAGS = 100  # that one name may stand for; compressed sets of tags multiply (PEP 425)
_HASH = re.compile(r"#sha256=([0-9a-f]{64})")
_MACHINES = {"linux/amd64": "x86_64", "linux/arm64": "aarch64"}
_MAX_NEAREST = 3


class WheelLink(Value):
    """A link to a wheel in an index. `sha256`: None where the index does not give it."""

    name: str
    url: str
    sha256: str | None = None

    @classmethod
    def of(cls, url: str) -> Self | None:
        """Parse a link; None if it names no wheel. Some mirrors have the hash in the name (mirror-requests#421)."""
        address, fragment = urldefrag(url)
        text = unquote(urlsplit(address).path).rpartition("/")[2] + (f"#{fragment}" if fragment else "")
        name, *_ = text.partition("#")
        digest = _HASH.search(text)
        if not name.endswith(".whl") or len(name) > _MAX_NAME or _count_tags(name) > _MAX_TAGS:
            return None
        return cls(name=name, url=re.split("%23", address, maxsplit=1)[0], sha256=digest[1] if digest else None)


class WheelRequest(Value):
    """A requested wheel. `cuda` as in a local version: cu128. `python` as in a tag: cp311; None: any version."""

    torch: str
    cuda: str
    python: str | None = None
    platform: str = "linux/amd64"

    def __str__(self) -> str:
        """Return torch VERSION+CUDA [PYTHON] PLATFORM."""
        return " ".join(["torch", f"{self.torch}+{self.cuda}", *([self.python] if self.python else []), self.platform])

    def fits(self, name: str) -> bool:
        """Whether the file `name` is a requested wheel."""
        return self._is_for_platform(name) and _local(name) == self.cuda and _public(name) == Version(self.torch)

    def is_near(self, name: str) -> bool:
        """Whether it is the same torch for another CUDA, or another torch for the same CUDA."""
        return self._is_for_platform(name) and (_local(name) == self.cuda or _public(name) == Version(self.torch))

    def is_version(self, name: str) -> bool:
        """Whether it is the same torch for this platform, for any CUDA."""
        return self._is_for_platform(name) and _public(name) == Version(self.torch)

    def _is_for_platform(self, name: str) -> bool:
        try:
            project, _, _, tags = parse_wheel_filename(name)
        except InvalidWheelFilename:
            return False
        machine = _MACHINES.get(self.platform, self.platform)
        return project == "torch" and any(
            tag.platform.startswith(("linux", "manylinux"))
            and tag.platform.endswith(machine)
            and self.python in {None, tag.interpreter}
            for tag in tags
        )


class WheelEnds(Value):
    """The result of a check of a wheel's first and last bytes. `host`: which host sent them, after redirects."""

    state: SyncState
    bytes: int = 0
    host: str = ""
    problem: Problem | None = None


class WheelReport(Value):
    """The sync state of one wheel. Sizes in bytes; `upstream_bytes` is 0 where it is unknown."""

    name: str
    url: str
    state: SyncState
    bytes: int = 0
    sha256: str | None = None
    upstream: Presence = "not_asked"
    upstream_bytes: int = 0
    problems: tuple[Problem, ...] = ()


class WheelReports(Document):
    """The document of `provision mirror wheel`. `asked`: the address of the index. `wish`: the requested wheel."""

    schema_: str = Field(default=WHEELS_SCHEMA, alias="schema")
    asked: str
    wish: str
    wheels: tuple[WheelReport, ...]
    problems: tuple[Problem, ...] = ()  # about this machine, not the mirror


class UpstreamWheel(Value):
    """One wheel on the upstream. `nearest`: names of similar wheels that it has."""

    presence: Presence = "not_asked"
    link: WheelLink | None = None
    ends: WheelEnds | None = None
    nearest: tuple[str, ...] = ()


def read_index(page: str, url: str) -> tuple[str, ...]:
    """Return the absolute targets of the links of an HTML page: a directory listing or a PEP 503 index.

    Not html.parser, whose time grows with the square of a malformed page (CVE-2025-6069).
    """
    targets = []
    for anchor in _ANCHOR.split(page, _MAX_LINKS)[1:]:
        attributes = _ATTRIBUTES.match(anchor[:_MAX_ANCHOR])
        if attributes and (match := _HREF.search(attributes[0])):
            with suppress(ValueError):  # the link is not a valid address
                targets.append(urljoin(url, unescape(match[1] or match[2] or match[3] or "")))
    return tuple(targets)


def wheels_in(targets: Iterable[str]) -> tuple[WheelLink, ...]:
    """Return those link targets that name a wheel."""
    return tuple(link for target in targets if (link := WheelLink.of(target)) is not None)


def nearest(links: Iterable[WheelLink], request: WheelRequest) -> tuple[str, ...]:
    """Return the names of at most three similar wheels, newest first."""
    near = {link.name: _public(link.name) or Version("0") for link in links if request.is_near(link.name)}
    return tuple(sorted(near, key=lambda name: near[name], reverse=True)[:_MAX_NEAREST])


def judge(link: WheelLink, here: WheelEnds, upstream: UpstreamWheel) -> WheelReport:
    """Build the report of one wheel; where it is absent, the problem states whether it can ever appear."""
    state, problems = here.state, [] if here.problem is None else [here.problem]
    size = upstream.ends.bytes if upstream.ends is not None else 0
    if state is SyncState.ABSENT:
        problems = [_absent(link.name, upstream)]
    elif (
        state is SyncState.COMPLETE and upstream.ends is not None and here.host == upstream.ends.host != _host(link.url)
    ):
        state, problems = SyncState.COLD, [_cold(link.name, here.host)]
    elif state is SyncState.COMPLETE and size and size != here.bytes:
        state = SyncState.PARTIAL if here.bytes < size else SyncState.STALE
        problems = [_different(link.name, f"it has {here.bytes} bytes here and {size} upstream")]
    elif state is SyncState.COMPLETE and upstream.link is not None and _differ(link.sha256, upstream.link.sha256):
        state, problems = SyncState.STALE, [_different(link.name, "the two indexes name different hashes")]
    return WheelReport(
        name=link.name,
        url=link.url,
        state=state,
        bytes=here.bytes,
        sha256=link.sha256,
        upstream=upstream.presence,
        upstream_bytes=size,
        problems=tuple(problems),
    )


def stale_index(
    index: str, names: Iterable[str], request: WheelRequest, reports: Sequence[WheelReport]
) -> Problem | None:
    """Return the problem that pip's own index lacks a torch that exists; None if it has it or that is unknown."""
    exists = [r for r in reports if r.upstream == "present" or r.state is SyncState.COMPLETE]
    if not exists or any(request.is_version(name) for name in names):
        return None
    where = "upstream" if exists[0].upstream == "present" else "on the mirror"
    return Problem(
        "stale_index",
        f"pip on this machine uses {index}, whose page of torch lists no file of {request.torch}; it is {where}",
        "pip then reports that no such version exists, whatever the mirror of wheels has",
        f"give pip the other index, --index-url or --find-links; `pip config list` shows which setting names {index}",
    )


def are_complete(reports: Sequence[WheelReport]) -> bool:
    """Whether there is a report and every wheel is complete."""
    return bool(reports) and all(report.state is SyncState.COMPLETE for report in reports)


def _count_tags(name: str) -> int:
    return prod(part.count(".") + 1 for part in name.removesuffix(".whl").split("-")[-3:])


def _public(name: str) -> Version | None:
    try:
        return Version(parse_wheel_filename(name)[1].public)
    except InvalidWheelFilename:
        return None


def _local(name: str) -> str | None:
    try:
        return parse_wheel_filename(name)[1].local
    except InvalidWheelFilename:
        return None


def _host(url: str) -> str:
    return urlsplit(url).netloc


def _differ(one: str | None, other: str | None) -> bool:
    return one is not None and other is not None and one != other


def _absent(name: str, upstream: UpstreamWheel) -> Problem:
    what = f"{name} is not on the mirror"
    if upstream.presence == "absent":
        fix = (
            f"choose what exists: {', '.join(upstream.nearest)}" if upstream.nearest else "choose another torch or CUDA"
        )
        why = "it does not exist upstream either: this is never, not late"
        return Problem("never_existed", what, why, fix)
    if upstream.presence == "present":
        return Problem("not_yet", what, "upstream has it: the mirror is behind", "try again later")
    why = "it is unknown whether it exists: a mirror answers alike for a late wheel and for one that never existed"
    return Problem("wheel_missing", what, why, "name the index that the mirror copies: --upstream INDEX")


def _cold(name: str, host: str) -> Problem:
    why = f"it redirects requests to {host}: files that it does not hold come from upstream, at upstream's speed"
    return Problem("cold", f"the mirror does not hold {name} yet", why, "try again later")


def _different(name: str, seen: str) -> Problem:
    return Problem(
        "differs_from_upstream",
        f"{name} differs from upstream: {seen}",
        "the upload was incomplete or the file was replaced; pip refuses it where it knows the hash",
        "try again later; report it to the mirror's administrator",
    )
