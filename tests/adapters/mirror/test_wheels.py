"""Wheels on a mirror over the loopback: flat directories, indexes, and what can be wrong with a file."""

import io
import re
import zipfile
from collections.abc import Iterator
from urllib.parse import quote

import pytest

from provisioner.adapters.mirror.fetch import Fetcher
from provisioner.adapters.mirror.wheels import look_at_wheels
from provisioner.adapters.registry.transport import Patience
from provisioner.domain.forecast.wheel import WheelReport, WheelRequest, is_all_there
from tests.adapters.registry.scripted_registry import Answer, Asked, ScriptedRegistry, ranged, served

WISH = WheelRequest(torch="2.8.0", cuda="cu128", python="cp311")
NAME = "torch-2.8.0+cu128-cp311-cp311-manylinux_2_28_x86_64.whl"
OTHER = "torch-2.8.0+cu126-cp311-cp311-manylinux_2_28_x86_64.whl"
HASTY = Patience(connect=2, read=5, whole=10, attempts=1)


def a_wheel(size: int = 5000) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("torch/__init__.py", b"x" * size)
    return made.getvalue()


def a_page(*links: str) -> bytes:
    return b"<html>" + b"".join(b'<a href="%s">x</a>' % link.encode() for link in links)


class Files:
    """Pages and wheels by path; what is not there is 404."""

    def __init__(self, **files: bytes | Answer) -> None:
        self.files: dict[str, bytes | Answer] = dict(files)

    def __call__(self, asked: Asked) -> Answer:
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


def look(asked: str, upstream: str | None = None, wish: WheelRequest = WISH) -> list[WheelReport]:
    with Fetcher(patience=HASTY) as fetcher:
        return look_at_wheels(fetcher, asked, wish, upstream)


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
def test_the_way_to_a_wheel(mirror: tuple[str, Files], pages: dict[str, bytes]) -> None:
    url, files = mirror
    files.files |= {**pages, f"/w/{quote(NAME)}": a_wheel()}
    (report,) = look(f"{url}/w")
    assert (report.name, report.state, report.upstream) == (NAME, "complete", "not_asked")
    assert report.bytes == len(a_wheel())
    assert report.problems == ()


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
def test_what_a_few_bytes_tell(mirror: tuple[str, Files], sent: bytes | Answer, state: str, code: str | None) -> None:
    url, files = mirror
    files.files[f"/{quote(NAME)}"] = sent
    (report,) = look(f"{url}/{quote(NAME)}")
    assert report.state == state
    assert [problem.code for problem in report.problems] == ([] if code is None else [code])
    assert is_all_there([report]) is (code is None)


def test_not_yet_is_not_never(mirror: tuple[str, Files], upstream: tuple[str, Files]) -> None:
    (url, files), (above, its) = mirror, upstream
    files.files["/"] = a_page(quote(OTHER))
    its.files |= {"/": a_page(quote(NAME), quote(OTHER)), f"/{quote(NAME)}": a_wheel()}
    (late,) = look(url, above)
    (never,) = look(url, above, WISH.model_copy(update={"cuda": "cu118"}))
    (unknown,) = look(url, f"{above}/nowhere/of/it")
    (unasked,) = look(url)
    assert [late.upstream, never.upstream, unknown.upstream] == ["present", "absent", "unknown"]
    codes = [report.problems[0].code for report in (late, never, unasked)]
    assert codes == ["not_yet", "never_existed", "wheel_missing"]
    assert NAME in never.problems[0].fix


def test_an_upstream_that_does_not_answer_says_nothing(mirror: tuple[str, Files], upstream: tuple[str, Files]) -> None:
    (url, files), (above, its) = mirror, upstream
    files.files["/"] = a_page(quote(OTHER))
    its.files["/"] = Answer(500)
    (report,) = look(url, above)
    assert (report.upstream, report.problems[0].code) == ("unknown", "wheel_missing")


def test_compared_with_upstream(mirror: tuple[str, Files], upstream: tuple[str, Files]) -> None:
    (url, files), (above, its) = mirror, upstream
    place = f"/{quote(NAME)}"
    files.files |= {"/": a_page(f"{quote(NAME)}#sha256={'a' * 64}"), place: a_wheel()}
    its.files |= {"/": a_page(f"{quote(NAME)}#sha256={'b' * 64}"), place: a_wheel()}
    assert look(url, above)[0].state == "stale"
    its.files["/"] = a_page(quote(NAME))
    assert look(url, above)[0].state == "complete"
    its.files[place] = a_wheel(6000)
    assert look(url, above)[0].state == "partial"
    its.files[place] = a_wheel(4000)
    (longer,) = look(url, above)
    assert (longer.state, longer.upstream_bytes) == ("stale", len(a_wheel(4000)))


def test_a_mirror_that_sends_on_to_upstream_does_not_hold_it(
    mirror: tuple[str, Files], upstream: tuple[str, Files]
) -> None:
    (url, files), (above, its) = mirror, upstream
    place = f"/{quote(NAME)}"
    files.files |= {"/": a_page(quote(NAME)), place: Answer(301, {"Location": above + place})}
    its.files |= {"/": a_page(quote(NAME)), place: a_wheel()}
    (report,) = look(url, above)
    assert (report.state, report.problems[0].code) == ("cold", "cold")


def test_every_python_where_none_is_named(mirror: tuple[str, Files]) -> None:
    url, files = mirror
    names = [re.sub("cp311", python, NAME) for python in ("cp311", "cp312")]
    files.files["/"] = a_page(*map(quote, names))
    files.files[f"/{quote(names[0])}"] = a_wheel()
    reports = look(url, wish=WISH.model_copy(update={"python": None}))
    assert [(report.name, report.state) for report in reports] == [(names[0], "complete"), (names[1], "absent")]


def test_pages_that_lead_in_a_circle_end(mirror: tuple[str, Files]) -> None:
    url, files = mirror
    files.files |= {
        "/": a_page("torch/", "cu128/"),
        "/torch/": a_page("/cu128/", "/torch/"),
        "/cu128/": a_page("/torch/"),
    }
    assert look(url)[0].state == "absent"
