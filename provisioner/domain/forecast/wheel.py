"""Wheels of torch on a mirror: their names in an index, and how far one is there."""

import re
from collections.abc import Iterable, Sequence
from html.parser import HTMLParser
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
END_SIZE = 22  # bytes of a zip's end record; wheel builders write no comment behind it (PKWARE APPNOTE 4.3.16)

_HASH = re.compile(r"#sha256=([0-9a-f]{64})")
_MACHINES = {"linux/amd64": "x86_64", "linux/arm64": "aarch64"}
_NEAR = 3


class WheelLink(Value):
    """A wheel as an index links to it. `sha256` where the index says it."""

    name: str
    url: str
    sha256: str | None = None

    @classmethod
    def of(cls, url: str) -> Self | None:
        """None where it is no link to a wheel. Some mirrors made the hash a part of the name (mirror-requests#421)."""
        place, fragment = urldefrag(url)
        given = unquote(urlsplit(place).path).rpartition("/")[2] + (f"#{fragment}" if fragment else "")
        name, *_ = given.partition("#")
        digest = _HASH.search(given)
        if not name.endswith(".whl"):
            return None
        return cls(name=name, url=re.split("%23", place, maxsplit=1)[0], sha256=digest[1] if digest else None)


class WheelRequest(Value):
    """`cuda` as in a local version: cu128. `python` as in a tag: cp311; None for every one."""

    torch: str
    cuda: str
    python: str | None = None
    platform: str = "linux/amd64"

    def __str__(self) -> str:
        return " ".join(["torch", f"{self.torch}+{self.cuda}", *([self.python] if self.python else []), self.platform])

    def fits(self, name: str) -> bool:
        return self._is_of_machine(name) and _local(name) == self.cuda and _public(name) == Version(self.torch)

    def is_near(self, name: str) -> bool:
        """The same torch for another CUDA, or the other way round."""
        return self._is_of_machine(name) and (_local(name) == self.cuda or _public(name) == Version(self.torch))

    def is_version(self, name: str) -> bool:
        """The same torch for this machine, whatever its CUDA."""
        return self._is_of_machine(name) and _public(name) == Version(self.torch)

    def _is_of_machine(self, name: str) -> bool:
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
    """What the first and the last bytes of a wheel say. `host`: who sent them, after redirects."""

    state: SyncState
    bytes: int = 0
    host: str = ""
    problem: Problem | None = None


class WheelReport(Value):
    """Sizes in bytes; `upstream_bytes` is 0 where nobody asked or it does not say."""

    name: str
    url: str
    state: SyncState
    bytes: int = 0
    sha256: str | None = None
    upstream: Presence = "not_asked"
    upstream_bytes: int = 0
    problems: tuple[Problem, ...] = ()


class WheelReports(Document):
    schema_: str = Field(default=WHEELS_SCHEMA, alias="schema")
    asked: str
    wish: str
    wheels: tuple[WheelReport, ...]
    problems: tuple[Problem, ...] = ()  # of this machine, not of the mirror


class Above(Value):
    """What upstream has in place of one wheel. `nearest`: names of others that it has."""

    presence: Presence = "not_asked"
    link: WheelLink | None = None
    ends: WheelEnds | None = None
    nearest: tuple[str, ...] = ()


class _Anchors(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.targets: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.targets += [value for name, value in attrs if tag == "a" and name == "href" and value]


def read_index(page: str, url: str) -> tuple[str, ...]:
    """The targets of a page's links: of a flat directory or of a PEP 503 index alike."""
    anchors = _Anchors()
    anchors.feed(page)
    targets = []
    for target in anchors.targets:
        try:
            targets.append(urljoin(url, target))
        except ValueError:  # a link that is no address leads nowhere
            continue
    return tuple(targets)


def wheels_in(targets: Iterable[str]) -> tuple[WheelLink, ...]:
    return tuple(link for target in targets if (link := WheelLink.of(target)) is not None)


def nearest(links: Iterable[WheelLink], wish: WheelRequest) -> tuple[str, ...]:
    near = {link.name: _public(link.name) or Version("0") for link in links if wish.is_near(link.name)}
    return tuple(sorted(near, key=lambda name: near[name], reverse=True)[:_NEAR])


def judge(link: WheelLink, here: WheelEnds, above: Above) -> WheelReport:
    """How far the mirror has one wheel, and where it has not, whether it ever will."""
    state, problems = here.state, [] if here.problem is None else [here.problem]
    size = above.ends.bytes if above.ends is not None else 0
    if state is SyncState.ABSENT:
        problems = [_absent(link.name, above)]
    elif state is SyncState.COMPLETE and above.ends is not None and here.host == above.ends.host != _host(link.url):
        state, problems = SyncState.COLD, [_redirected(link.name, here.host)]
    elif state is SyncState.COMPLETE and size and size != here.bytes:
        state = SyncState.PARTIAL if here.bytes < size else SyncState.STALE
        problems = [_other(link.name, f"it has {here.bytes} bytes here and {size} upstream")]
    elif state is SyncState.COMPLETE and above.link is not None and _differ(link.sha256, above.link.sha256):
        state, problems = SyncState.STALE, [_other(link.name, "the two indexes name different hashes")]
    return WheelReport(
        name=link.name,
        url=link.url,
        state=state,
        bytes=here.bytes,
        sha256=link.sha256,
        upstream=above.presence,
        upstream_bytes=size,
        problems=tuple(problems),
    )


def stale_index(index: str, names: Iterable[str], wish: WheelRequest, reports: Sequence[WheelReport]) -> Problem | None:
    """What pip's own index lacks of a torch that exists; None where it has it, or where nobody knows that it exists."""
    exists = [r for r in reports if r.upstream == "present" or r.state is SyncState.COMPLETE]
    if not exists or any(wish.is_version(name) for name in names):
        return None
    where = "upstream" if exists[0].upstream == "present" else "on the mirror"
    return Problem(
        "stale_index",
        f"pip on this machine asks {index}, whose page of torch lists no file of {wish.torch}; it is {where}",
        "pip then says that no such version exists, whatever the mirror of wheels has",
        f"give pip the other index, --index-url or --find-links; or see `pip config list` for what names {index}",
    )


def is_all_there(reports: Sequence[WheelReport]) -> bool:
    return bool(reports) and all(report.state is SyncState.COMPLETE for report in reports)


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


def _absent(name: str, above: Above) -> Problem:
    what = f"{name} is not on the mirror"
    if above.presence == "absent":
        fix = f"choose what exists: {', '.join(above.nearest)}" if above.nearest else "choose another torch or CUDA"
        why = "it does not exist upstream either: this is never, not late"
        return Problem("never_existed", what, why, fix)
    if above.presence == "present":
        return Problem("not_yet", what, "upstream has it: the mirror is behind", "ask again later")
    why = "whether it ever existed is not known: a mirror answers alike for what is late and for what never was"
    return Problem("wheel_missing", what, why, "name the index that it copies: --upstream INDEX")


def _redirected(name: str, host: str) -> Problem:
    why = f"it sends those who ask on to {host}: what it does not hold comes from upstream, at upstream's speed"
    return Problem("cold", f"the mirror does not hold {name} yet", why, "ask again later")


def _other(name: str, seen: str) -> Problem:
    return Problem(
        "differs_from_upstream",
        f"{name} is not upstream's: {seen}",
        "an upload that broke off, or a file that was replaced; pip refuses it where it knows the hash",
        "ask again later; tell whoever keeps the mirror",
    )
