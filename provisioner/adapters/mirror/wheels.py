"""Wheels on a mirror: found in its index, and checked by a few bytes of their beginning and their end."""

import re
from http import HTTPStatus
from typing import NamedTuple
from urllib.parse import urlsplit

from provisioner.adapters.registry.fetch import Fetcher
from provisioner.adapters.registry.http import Reply, RequestFailed
from provisioner.domain.forecast.wheel import (
    END_SIZE,
    ZIP_END,
    ZIP_START,
    UpstreamWheel,
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

_PAGE_LIMIT = 16 << 20
_MAX_PAGES = 4
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")
_GONE = (HTTPStatus.NOT_FOUND, HTTPStatus.GONE)
# A server answers a range of an empty file with the last one.
_USABLE = (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT, *_GONE, HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)


class WheelIndex(NamedTuple):
    """The wheels that an index lists. `fault`: why it cannot be read. `exists`: at least one of its pages does."""

    links: tuple[WheelLink, ...] = ()
    exists: bool = True
    fault: Fault | None = None

    def matching(self, request: WheelRequest) -> list[WheelLink]:
        """Return the links that fit the request, one for each file name."""
        return list({link.name: link for link in self.links if request.fits(link.name)}.values())


def check_wheels(fetcher: Fetcher, url: str, request: WheelRequest, upstream: str | None) -> list[WheelReport]:
    """Return one report for each wheel that fits the request, one in all if none does.

    `url` is a wheel or an index, `upstream` the index that the mirror copies.
    """
    upstream_index = None if upstream is None else read_wheel_index(fetcher, upstream, request)
    direct = WheelLink.of(url)
    index = WheelIndex((direct,)) if direct is not None else read_wheel_index(fetcher, url, request)
    links = index.matching(request)
    if index.fault is not None or not links:
        return [_report_unlisted(url, request, index, _find_upstream(fetcher, upstream_index, request, None))]
    return [
        judge(link, check_ends(fetcher, link.url), _find_upstream(fetcher, upstream_index, request, link))
        for link in links
    ]


def read_wheel_index(fetcher: Fetcher, url: str, request: WheelRequest) -> WheelIndex:
    """Read an index of wheels, of projects or of CUDA versions; its links to torch are followed."""
    links, pages, visited, exists = list[WheelLink](), [_page_url(url)], set[str](), False
    while pages and len(visited) < _MAX_PAGES:
        page = pages.pop(0)
        visited.add(page)
        try:
            reply = fetcher.get(page, _PAGE_LIMIT)
        except RequestFailed as failed:
            return WheelIndex(fault=failed.fault)
        if (fault := _status_fault(reply)) is not None:
            return WheelIndex(fault=fault)
        exists = exists or reply.status == HTTPStatus.OK
        targets = read_index(reply.received.decode("utf-8", "replace"), reply.url)
        links += wheels_in(targets)
        if any(request.fits(link.name) for link in links):
            break
        pages += [sub for sub in _subpages(reply, page, targets, request) if sub not in visited and sub not in pages]
    return WheelIndex(tuple(links), exists)


def check_ends(fetcher: Fetcher, url: str) -> WheelEnds:
    """Check the wheel's first and last bytes. A fault is in the result and never raised."""
    try:
        start = _get_range(fetcher, url, 0, len(ZIP_START) - 1)
        if (fault := _status_fault(start)) is not None:
            return WheelEnds(state=fault.state, host=start.host, problem=fault.problem)
        if start.status in _GONE:
            return WheelEnds(state=SyncState.ABSENT, host=start.host)
        return _check_bytes(fetcher, url, start)
    except RequestFailed as failed:
        return WheelEnds(state=failed.fault.state, problem=failed.fault.problem)


def _check_bytes(fetcher: Fetcher, url: str, start: Reply[bytes]) -> WheelEnds:
    size = _read_size(start)
    if start.received[: len(ZIP_START)] != ZIP_START:
        return _truncated(start, size, f"it begins with {start.received[:4]!r}")
    if size is None or size < END_SIZE:
        problem = unreachable(start.host, "it does not send the length of the wheel").problem
        return WheelEnds(state=SyncState.UNKNOWN, host=start.host, problem=problem)
    end = _get_range(fetcher, url, size - END_SIZE, size - 1)
    if end.status != HTTPStatus.PARTIAL_CONTENT:  # no ranges: only the announced length is known
        return WheelEnds(state=SyncState.COMPLETE, bytes=size, host=start.host)
    if not end.received.startswith(ZIP_END) or len(end.received) != END_SIZE:
        return _truncated(start, size, "its end is missing")
    return WheelEnds(state=SyncState.COMPLETE, bytes=size, host=start.host)


def _truncated(reply: Reply[bytes], size: int | None, reason: str) -> WheelEnds:
    problem = Problem(
        "wheel_truncated",
        f"{reply.host} does not send a complete wheel: {reason}",
        "an upload that broke off, or a web page in place of the wheel; pip would fail after the download",
        "try again later; use another mirror until then",
    )
    return WheelEnds(state=SyncState.PARTIAL, bytes=size or 0, host=reply.host, problem=problem)


def _find_upstream(
    fetcher: Fetcher, index: WheelIndex | None, request: WheelRequest, link: WheelLink | None
) -> UpstreamWheel:
    """Find the wheel `link` upstream; without `link`, any wheel that fits the request."""
    if index is None:
        return UpstreamWheel()
    if index.fault is not None or not index.exists:
        return UpstreamWheel(presence="unknown")
    found = next((its for its in index.matching(request) if link is None or its.name == link.name), None)
    if found is None:
        return UpstreamWheel(presence="absent", nearest=nearest(index.links, request))
    return UpstreamWheel(presence="present", link=found, ends=None if link is None else check_ends(fetcher, found.url))


def _report_unlisted(url: str, request: WheelRequest, index: WheelIndex, upstream: UpstreamWheel) -> WheelReport:
    fault = index.fault
    ends = WheelEnds(state=SyncState.ABSENT) if fault is None else WheelEnds(state=fault.state, problem=fault.problem)
    return judge(WheelLink(name=str(request), url=url), ends, upstream)


def _get_range(fetcher: Fetcher, url: str, first: int, last: int) -> Reply[bytes]:
    return fetcher.get(url, last - first + 1, {"Range": f"bytes={first}-{last}"})


def _status_fault(reply: Reply[bytes]) -> Fault | None:
    """Return the fault of a status that means neither yes nor no."""
    if reply.status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        return denied(reply.host, reply.status)
    return None if reply.status in _USABLE else unreachable(reply.host, f"HTTP {reply.status}")


def _read_size(reply: Reply[bytes]) -> int | None:
    match = _RANGE.fullmatch(reply.headers.get("Content-Range", ""))
    if match is not None:
        return int(match[3])
    length = reply.headers.get("Content-Length", "")
    return int(length) if reply.status == HTTPStatus.OK and length.isdecimal() else None


def _subpages(reply: Reply[bytes], page: str, targets: tuple[str, ...], request: WheelRequest) -> list[str]:
    """Return pages that may list torch: those that this page links to; for a missing page, the one of PEP 503."""
    if reply.status in _GONE:
        return [] if page.endswith("/torch/") else [f"{page}torch/"]
    by_name = {urlsplit(target).path.rstrip("/").rpartition("/")[2]: target for target in targets}
    return [_page_url(by_name[name]) for name in (request.cuda, "torch") if name in by_name]


def _page_url(url: str) -> str:
    return url if url.endswith(("/", ".html")) else f"{url}/"
