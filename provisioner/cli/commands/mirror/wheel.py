"""`provision mirror wheel`: check whether a mirror has the wheels of torch complete."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import click
from packaging.version import InvalidVersion, Version

from provisioner.adapters.mirror.pip_index import pip_index
from provisioner.adapters.mirror.wheels import check_wheels, read_wheel_index
from provisioner.adapters.registry.fetch import Fetcher
from provisioner.adapters.registry.http import origin_of
from provisioner.cli.exit_codes import DONE, FAILED
from provisioner.cli.options import ca_option, example, platform_option, with_output
from provisioner.cli.output import Output
from provisioner.console.wheel import wheels_table
from provisioner.domain.forecast.wheel import (
    WHEELS_SCHEMA,
    WheelLink,
    WheelReport,
    WheelReports,
    WheelRequest,
    are_complete,
    stale_index,
)
from provisioner.domain.values.problem import Problem


def _check_url(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    if value is not None and not (re.fullmatch(r"https?://[^\s/@]+(/\S*)?", value) and _has_host(value)):
        raise click.BadParameter(f"{value} is not an http(s) address", ctx, param)
    return value


def _has_host(url: str) -> bool:
    """Whether the host and the port can be read: brackets may be no IPv6 address, and a port too large."""
    try:
        return origin_of(url)[1] is not None
    except ValueError:
        return False


def _check_version(ctx: click.Context, param: click.Parameter, value: str) -> str:
    try:
        return Version(value).public
    except InvalidVersion:
        raise click.BadParameter(f"{value} is not a version such as 2.8.0", ctx, param) from None


def _pattern_check(pattern: str, like: str) -> Callable[[click.Context, click.Parameter, str | None], str | None]:
    def checked(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(pattern, value):
            raise click.BadParameter(f"{value} is not of the form {like}", ctx, param)
        return value

    return checked


@click.command(
    epilog=example("provision mirror wheel https://mirrors.aliyun.com/pytorch-wheels/cu128 --torch 2.8.0 --cuda cu128")
)
@click.argument("place", metavar="URL-or-INDEX", callback=_check_url)
@click.option("--torch", required=True, metavar="VERSION", callback=_check_version, help="Such as 2.8.0.")
@click.option(
    "--cuda", required=True, callback=_pattern_check(r"cu\d{2,3}|cpu", "cu128"), help="Such as cu128, or cpu."
)
@click.option(
    "--python", callback=_pattern_check(r"cp3\d{1,2}t?", "cp311"), help="Such as cp311; every version if not given."
)
@click.option("--upstream", metavar="INDEX", callback=_check_url, help="The index that the mirror copies.")
@ca_option
@platform_option
@with_output
def wheel(  # noqa: PLR0913  (each is a flag)
    *,
    place: str,
    torch: str,
    cuda: str,
    python: str | None,
    upstream: str | None,
    ca: Path | None,
    platform: str,
    output: Output,
) -> int:
    """Check whether a mirror has torch wheels for a CUDA version; exit 0 only if they are complete.

    URL-or-INDEX is a wheel, a flat directory, or a PEP 503 index. --upstream distinguishes "not yet" from "never".
    """
    request = WheelRequest(torch=torch, cuda=cuda, python=python, platform=platform)
    direct = WheelLink.of(place)
    if direct is not None and not request.fits(direct.name):
        raise click.BadParameter(f"{direct.name} is not a wheel of {request}")
    with Fetcher(ca=ca) as fetcher:
        reports = check_wheels(fetcher, place, request, upstream)
        stale = _check_pip_index(fetcher, place, request, reports)
    found = WheelReports(
        asked=place, wish=str(request), wheels=tuple(reports), problems=() if stale is None else (stale,)
    )
    output.document(WHEELS_SCHEMA, found)
    output.show(wheels_table(found))
    return DONE if are_complete(reports) else FAILED


def _check_pip_index(
    fetcher: Fetcher, place: str, request: WheelRequest, reports: Sequence[WheelReport]
) -> Problem | None:
    """Return a problem where the index that pip uses on this machine lacks wheels that exist."""
    index = pip_index()
    if index is None or place.startswith(index):
        return None
    page = read_wheel_index(fetcher, f"{index.rstrip('/')}/torch/", request)
    if page.fault is not None:
        return None
    parts = urlsplit(index)
    public = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    return stale_index(public, [link.name for link in page.links], request, reports)
