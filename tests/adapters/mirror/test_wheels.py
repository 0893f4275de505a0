"""Wheels on a mirror over loopback: flat directories, indexes, and faults of a file."""

import io
import re
import zipfile
from base64 import b64encode
from collections.abc import Iterator
from urllib.parse import quote

import pytest

from provisioner.adapters.mirror.wheels import check_wheels
from provisioner.adapters.registry.fetch import Fetcher
from provisioner.adapters.registry.transport import RetryPolicy
from provisioner.domain.forecast.wheel import WheelReport, WheelRequest, are_complete
from tests.adapters.registry.scripted_registry import Answer, ReceivedRequest, ScriptedRegistry, ranged, served

REQUEST = WheelRequest(torch="2.8.0", cuda="cu128", python="cp311")
NAME = "torch-2.8.0+cu128-cp311-cp311-manylinux_2_28_x86_64.whl"
OTHER = "torch-2.8.0+cu126-cp311-cp311-manylinux_2_28_x86_64.whl"
FAIL_FAST = RetryPolicy(connect=2, read=5, whole=10, attempts=1)


def a_wheel(size: int = 5000) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("torch/__init__.py", b"x" * size)
    return made.getvalue()


def a_page(*links: str) -> bytes:
    return b"<html>" + b"".join(b'<a href="%s">x</a>' % link.encode() for link in links)


class Files:
    """Pages and wheels by path; other paths are 404."""

    def __init__(self, **files: bytes | Answer) -> None:
        self.files: dict[str, bytes | Answer] = dict(files)

    def __call__(self, asked: ReceivedRequest) -> Answer:
        found = self.files.get(asked.path, Answer(404))
        return found if isinstance(found, Answer) else ranged(found, asked)


@pytest.fixture
def mirror() -> Iterator[tuple[str, Files]]:
    files = Files()
    with served(ScriptedRegistry(files)) as server:
        yield f"http://{server.host}", files


@pytest.fixture
def upstream() -> Iterator[tuple[str, Files]]:
    files = Files()
    with served(ScriptedRegistry(files)) as server:
        yield f"http://{server.host}", files


def check(url: str, upstream: str | None = None, request: WheelRequest = REQUEST) -> list[WheelReport]:
    with Fetcher(policy=FAIL_FAST) as fetcher:
        return check_wheels(fetcher, url, request, upstream)


@pytest.mark.parametrize(
    "pages",
    [
        {"/w/": a_page(quote(NAME), quote(OTHER))},
        {"/w/": a_page("torch/", "numpy/"), "/w/torch/": a_page(f"../{quote(NAME)}#sha256={'a' * 64}")},
        {"/w/": a_page("cu126/", "cu128/"), "/w/cu128/": a_page("../" + quote(NAME))},
        {"/w/torch/": a_page("../" + quote(NAME))},
    ],
    ids=["flat", "PEP 503", "by CUDA", "PEP 503 without a root"],
)
def test_wheel_is_found_in_each_layout_of_an_index(mirror: tuple[str, Files], pages: dict[str, bytes]) -> None:
    url, files = mirror
    files.files |= {**pages, f"/w/{quote(NAME)}": a_wheel()}
    (report,) = check(f"{url}/w")
    assert (report.name, report.state, report.upstream) == (NAME, "complete", "not_asked")
    assert report.bytes == len(a_wheel())
    assert report.problems == ()


def test_the_login_in_a_url_is_sent_to_all_pages_of_its_origin_and_to_no_other() -> None:
    login, asked = f"Basic {b64encode(b'ann:se cret').decode()}", list[str]()
    files, its = Files(), Files()

    def with_login(request: ReceivedRequest) -> Answer:
        asked.append(request.headers.get("Authorization", ""))
        return files(request) if asked[-1] == login else Answer(401)

    def without(request: ReceivedRequest) -> Answer:
        return Answer(400) if "Authorization" in request.headers else its(request)

    with served(ScriptedRegistry(with_login)) as server, served(ScriptedRegistry(without)) as other:
        files.files |= {"/w/": a_page("torch/"), "/w/torch/": a_page(f"http://{other.host}/{quote(NAME)}", "x.whl")}
        its.files[f"/{quote(NAME)}"] = a_wheel()
        (report,) = check(f"http://ann:se%20cret@{server.host}/w")
    assert (report.state, asked) == ("complete", [login, login])
    assert "se cret" not in repr(report)


def test_a_url_with_a_login_of_its_own_is_asked_with_that_one() -> None:
    logins = list[str]()

    def page(asked: ReceivedRequest) -> Answer:
        logins.append(asked.headers["Authorization"])
        return Answer(404)

    with served(ScriptedRegistry(page)) as server, Fetcher(policy=FAIL_FAST) as fetcher:
        for user in ("ann", "bob"):
            fetcher.get(f"http://{user}:x@{server.host}/", 10)
    assert logins == [f"Basic {b64encode(f'{user}:x'.encode()).decode()}" for user in ("ann", "bob")]


@pytest.mark.parametrize(
    ("sent", "state", "code"),
    [
        (a_wheel()[:-100], "partial", "wheel_truncated"),
        (b"", "partial", "wheel_truncated"),
        (b"<!DOCTYPE html>" + b" " * 500, "partial", "wheel_truncated"),
        (Answer(404), "absent", "wheel_missing"),
        (Answer(403), "denied", "denied"),
        (Answer(500), "unknown", "unreachable"),
        (Answer(200, {}, a_wheel()), "complete", None),
        (Answer(302, {"Location": "ftp://x/"}), "unknown", "unreachable"),
    ],
)
def test_state_of_a_wheel_by_its_first_and_last_bytes(
    mirror: tuple[str, Files], sent: bytes | Answer, state: str, code: str | None
) -> None:
    url, files = mirror
    files.files[f"/{quote(NAME)}"] = sent
    (report,) = check(f"{url}/{quote(NAME)}")
    assert report.state == state
    assert [problem.code for problem in report.problems] == ([] if code is None else [code])
    assert are_complete([report]) is (code is None)


def test_missing_wheel_is_not_yet_or_never_by_upstream(mirror: tuple[str, Files], upstream: tuple[str, Files]) -> None:
    (url, files), (above, its) = mirror, upstream
    files.files["/"] = a_page(quote(OTHER))
    its.files |= {"/": a_page(quote(NAME), quote(OTHER)), f"/{quote(NAME)}": a_wheel()}
    (late,) = check(url, above)
    (never,) = check(url, above, REQUEST.model_copy(update={"cuda": "cu118"}))
    (unknown,) = check(url, f"{above}/nowhere/of/it")
    (unasked,) = check(url)
    assert [late.upstream, never.upstream, unknown.upstream] == ["present", "absent", "unknown"]
    codes = [report.problems[0].code for report in (late, never, unasked)]
    assert codes == ["not_yet", "never_existed", "wheel_missing"]
    assert NAME in never.problems[0].fix


def test_failing_upstream_leaves_the_wheel_missing(mirror: tuple[str, Files], upstream: tuple[str, Files]) -> None:
    (url, files), (above, its) = mirror, upstream
    files.files["/"] = a_page(quote(OTHER))
    its.files["/"] = Answer(500)
    (report,) = check(url, above)
    assert (report.upstream, report.problems[0].code) == ("unknown", "wheel_missing")


def test_wheel_that_differs_from_upstream_is_stale_or_partial(
    mirror: tuple[str, Files], upstream: tuple[str, Files]
) -> None:
    (url, files), (above, its) = mirror, upstream
    place = f"/{quote(NAME)}"
    files.files |= {"/": a_page(f"{quote(NAME)}#sha256={'a' * 64}"), place: a_wheel()}
    its.files |= {"/": a_page(f"{quote(NAME)}#sha256={'b' * 64}"), place: a_wheel()}
    assert check(url, above)[0].state == "stale"
    its.files["/"] = a_page(quote(NAME))
    assert check(url, above)[0].state == "complete"
    its.files[place] = a_wheel(6000)
    assert check(url, above)[0].state == "partial"
    its.files[place] = a_wheel(4000)
    (longer,) = check(url, above)
    assert (longer.state, longer.upstream_bytes) == ("stale", len(a_wheel(4000)))


def test_mirror_that_redirects_to_upstream_is_cold(mirror: tuple[str, Files], upstream: tuple[str, Files]) -> None:
    (url, files), (above, its) = mirror, upstream
    place = f"/{quote(NAME)}"
    files.files |= {"/": a_page(quote(NAME)), place: Answer(301, {"Location": above + place})}
    its.files |= {"/": a_page(quote(NAME)), place: a_wheel()}
    (report,) = check(url, above)
    assert (report.state, report.problems[0].code) == ("cold", "cold")


def test_request_without_python_reports_every_python(mirror: tuple[str, Files]) -> None:
    url, files = mirror
    names = [re.sub("cp311", python, NAME) for python in ("cp311", "cp312")]
    files.files["/"] = a_page(*map(quote, names))
    files.files[f"/{quote(names[0])}"] = a_wheel()
    reports = check(url, request=REQUEST.model_copy(update={"python": None}))
    assert [(report.name, report.state) for report in reports] == [(names[0], "complete"), (names[1], "absent")]


def test_circular_index_pages_end(mirror: tuple[str, Files]) -> None:
    url, files = mirror
    files.files |= {
        "/": a_page("torch/", "cu128/"),
        "/torch/": a_page("/cu128/", "/torch/"),
        "/cu128/": a_page("/torch/"),
    }
    assert check(url)[0].state == "absent"
