import re
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import click
from packaging.version import InvalidVersion, Version

from provisioner.adapters.mirror.fetch import Fetcher
from provisioner.adapters.mirror.pip_index import pip_index
from provisioner.adapters.mirror.wheels import look_at_wheels, read
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
    is_all_there,
    stale_index,
)
from provisioner.domain.values.problem import Problem


def _address(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    if value is not None and not re.fullmatch(r"https?://[^\s/@]+(/\S*)?", value):
        raise click.BadParameter(f"{value} is no http(s) address", ctx, param)
    return value


def _version(ctx: click.Context, param: click.Parameter, value: str) -> str:
    try:
        return Version(value).public
    except InvalidVersion:
        raise click.BadParameter(f"{value} is no version such as 2.8.0", ctx, param) from None


def _matching(pattern: str, like: str) -> Callable[[click.Context, click.Parameter, str | None], str | None]:
    def checked(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(pattern, value):
            raise click.BadParameter(f"{value} is not of the form {like}", ctx, param)
        return value

    return checked


@click.command(
    epilog=example("provision mirror wheel https://mirrors.aliyun.com/pytorch-wheels/cu128 --torch 2.8.0 --cuda cu128")
)
@click.argument("place", metavar="URL-or-INDEX", callback=_address)
@click.option("--torch", required=True, metavar="VERSION", callback=_version, help="Such as 2.8.0.")
@click.option("--cuda", required=True, callback=_matching(r"cu\d{2,3}|cpu", "cu128"), help="Such as cu128, or cpu.")
@click.option("--python", callback=_matching(r"cp3\d{1,2}t?", "cp311"), help="Such as cp311; each one where not given.")
@click.option("--upstream", metavar="INDEX", callback=_address, help="The index that the mirror copies.")
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
    """Look whether a mirror of wheels has torch for a CUDA version, whole; exit 0 only then.

    URL-or-INDEX is a wheel, a flat directory, or a PEP 503 index. --upstream tells "not yet" from "never".
    """
    wish = WheelRequest(torch=torch, cuda=cuda, python=python, platform=platform)
    direct = WheelLink.of(place)
    if direct is not None and not wish.fits(direct.name):
        raise click.BadParameter(f"{direct.name} is not a wheel of {wish}")
    with Fetcher(ca=ca) as fetcher:
        reports = look_at_wheels(fetcher, place, wish, upstream)
        stale = _of_pip(fetcher, place, wish, reports)
    told = WheelReports(asked=place, wish=str(wish), wheels=tuple(reports), problems=() if stale is None else (stale,))
    output.document(WHEELS_SCHEMA, told)
    output.say(wheels_table(told))
    return DONE if is_all_there(reports) else FAILED


def _of_pip(fetcher: Fetcher, place: str, wish: WheelRequest, reports: Sequence[WheelReport]) -> Problem | None:
    """Whether the index that pip would ask here hides what exists."""
    index = pip_index()
    if index is None or place.startswith(index):
        return None
    page = read(fetcher, f"{index.rstrip('/')}/torch/", wish)
    if page.fault is not None:
        return None
    parts = urlsplit(index)
    public = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    return stale_index(public, [link.name for link in page.links], wish, reports)
