"""Wheels on a mirror: found in its index, and looked at by a few bytes of their beginning and their end."""

import re
from http import HTTPStatus
from typing import NamedTuple
from urllib.parse import urlsplit

from provisioner.adapters.mirror.fetch import Fetcher
from provisioner.adapters.registry.http import Refused, Reply
from provisioner.domain.forecast.wheel import (
    END_SIZE,
    ZIP_END,
    ZIP_START,
    Above,
    WheelEnds,
    WheelLink,
    WheelReport,
    WheelRequest,
    judge,
    nearest,
    read_index,
    wheels_in,
)
from provisioner.domain.registry.image_problems import Fault, denied, unreachable
from provisioner.domain.values.problem import Problem
from provisioner.domain.values.sync import SyncState

_PAGE = 16 << 20
_PAGES = 4
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")
_GONE = (HTTPStatus.NOT_FOUND, HTTPStatus.GONE)
# The last one is how a server answers a range of an empty file.
_ANSWERS = (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT, *_GONE, HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)


class Index(NamedTuple):
    """What an index lists. `fault`: why nobody knows what it lists. `is_there`: some page of it is."""

    links: tuple[WheelLink, ...] = ()
    is_there: bool = True
    fault: Fault | None = None

    def fitting(self, wish: WheelRequest) -> list[WheelLink]:
        return list({link.name: link for link in self.links if wish.fits(link.name)}.values())


def look_at_wheels(fetcher: Fetcher, asked: str, wish: WheelRequest, upstream: str | None) -> list[WheelReport]:
    """One report for each wheel that the wish names; one in all where there is none. `asked`: a wheel or an index."""
    above = None if upstream is None else read(fetcher, upstream, wish)
    direct = WheelLink.of(asked)
    here = Index((direct,)) if direct is not None else read(fetcher, asked, wish)
    links = here.fitting(wish)
    if here.fault is not None or not links:
        return [_not_listed(asked, wish, here, _above(fetcher, above, wish, None))]
    return [judge(link, ends(fetcher, link.url), _above(fetcher, above, wish, link)) for link in links]


def read(fetcher: Fetcher, url: str, wish: WheelRequest) -> Index:
    """An index of wheels, or of projects, or of CUDA versions: the way to torch is followed down."""
    links, at, asked, is_there = list[WheelLink](), [_folder(url)], set[str](), False
    while at and len(asked) < _PAGES:
        place = at.pop(0)
        asked.add(place)
        try:
            reply = fetcher.get(place, _PAGE)
        except Refused as refused:
            return Index(fault=refused.fault)
        if (fault := _unusable(reply)) is not None:
            return Index(fault=fault)
        is_there = is_there or reply.status == HTTPStatus.OK
        targets = read_index(reply.received.decode("utf-8", "replace"), reply.url)
        links += wheels_in(targets)
        if any(wish.fits(link.name) for link in links):
            break
        at += [found for found in _downwards(reply, place, targets, wish) if found not in asked and found not in at]
    return Index(tuple(links), is_there)


def ends(fetcher: Fetcher, url: str) -> WheelEnds:
    """The wheel's first and last bytes. Never raises."""
    try:
        start = _range(fetcher, url, 0, len(ZIP_START) - 1)
        if (fault := _unusable(start)) is not None:
            return WheelEnds(state=fault.state, host=start.host, problem=fault.problem)
        if start.status in _GONE:
            return WheelEnds(state=SyncState.ABSENT, host=start.host)
        return _judged(fetcher, url, start)
    except Refused as refused:
        return WheelEnds(state=refused.fault.state, problem=refused.fault.problem)


def _judged(fetcher: Fetcher, url: str, start: Reply[bytes]) -> WheelEnds:
    size = _size(start)
    if start.received[: len(ZIP_START)] != ZIP_START:
        return _broken(start, size, f"it begins with {start.received[:4]!r}")
    if size is None or size < END_SIZE:
        problem = unreachable(start.host, "it does not say how long the wheel is").problem
        return WheelEnds(state=SyncState.UNKNOWN, host=start.host, problem=problem)
    end = _range(fetcher, url, size - END_SIZE, size - 1)
    if end.status != HTTPStatus.PARTIAL_CONTENT:  # it gives no ranges: its announced length must do
        return WheelEnds(state=SyncState.COMPLETE, bytes=size, host=start.host)
    if not end.received.startswith(ZIP_END) or len(end.received) != END_SIZE:
        return _broken(start, size, "its end is missing")
    return WheelEnds(state=SyncState.COMPLETE, bytes=size, host=start.host)


def _broken(reply: Reply[bytes], size: int | None, seen: str) -> WheelEnds:
    problem = Problem(
        "wheel_truncated",
        f"what {reply.host} sends is no whole wheel: {seen}",
        "an upload that broke off, or a page in the wheel's place; pip would fail after the download",
        "ask again later; use another mirror until then",
    )
    return WheelEnds(state=SyncState.PARTIAL, bytes=size or 0, host=reply.host, problem=problem)


def _above(fetcher: Fetcher, above: Index | None, wish: WheelRequest, link: WheelLink | None) -> Above:
    """`link` None: whatever of upstream fits the wish."""
    if above is None:
        return Above()
    if above.fault is not None or not above.is_there:
        return Above(presence="unknown")
    found = next((its for its in above.fitting(wish) if link is None or its.name == link.name), None)
    if found is None:
        return Above(presence="absent", nearest=nearest(above.links, wish))
    return Above(presence="present", link=found, ends=None if link is None else ends(fetcher, found.url))


def _not_listed(asked: str, wish: WheelRequest, here: Index, above: Above) -> WheelReport:
    fault = here.fault
    seen = WheelEnds(state=SyncState.ABSENT) if fault is None else WheelEnds(state=fault.state, problem=fault.problem)
    return judge(WheelLink(name=str(wish), url=asked), seen, above)


def _range(fetcher: Fetcher, url: str, first: int, last: int) -> Reply[bytes]:
    return fetcher.get(url, last - first + 1, {"Range": f"bytes={first}-{last}"})


def _unusable(reply: Reply[bytes]) -> Fault | None:
    """Neither yes nor no."""
    if reply.status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        return denied(reply.host, reply.status)
    return None if reply.status in _ANSWERS else unreachable(reply.host, f"HTTP {reply.status}")


def _size(reply: Reply[bytes]) -> int | None:
    match = _RANGE.fullmatch(reply.headers.get("Content-Range", ""))
    if match is not None:
        return int(match[3])
    length = reply.headers.get("Content-Length", "")
    return int(length) if reply.status == HTTPStatus.OK and length.isdecimal() else None


def _downwards(reply: Reply[bytes], place: str, targets: tuple[str, ...], wish: WheelRequest) -> list[str]:
    """Pages that may list torch: named so by this one; where there is no such page, where PEP 503 would have it."""
    if reply.status in _GONE:
        return [] if place.endswith("/torch/") else [f"{place}torch/"]
    named = {urlsplit(target).path.rstrip("/").rpartition("/")[2]: target for target in targets}
    return [_folder(named[name]) for name in (wish.cuda, "torch") if name in named]


def _folder(url: str) -> str:
    return url if url.endswith(("/", ".html")) else f"{url}/"
