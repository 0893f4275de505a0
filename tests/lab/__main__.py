"""The command line of the test bed: `python -m tests.lab --help`."""

import argparse
import sys
import time
from collections.abc import Callable

from tests.lab.bed import Lab
from tests.lab.engine import Engine, the_engine
from tests.lab.host import BedError
from tests.lab.networks import labs
from tests.lab.steps import setup
from tests.lab.tags import push_demo_tags

DEFAULT_PROFILES = "rtx5090x2-580,rtx4090-570,v100-535"


def do_setup(_: argparse.Namespace) -> None:
    setup(print)


def do_up(options: argparse.Namespace) -> None:
    setup()
    started = time.monotonic()
    lab = Lab(options.prefix, options.net).up(options.profiles.split(","))
    print(f"up                {time.monotonic() - started:.1f} s")
    if options.tags == "demo":
        started = time.monotonic()
        push_demo_tags(lab.mirror)
        print(f"tags              {time.monotonic() - started:.1f} s")
    print(f"inventory         {lab.inventory}")
    print(f"mirror            {lab.mirror.address} (host only)")
    print(f"lab registry      {lab.registry.address}")
    print(f"their CA          {lab.ca}")
    for node in lab.nodes:
        print(f"{node.name:<17} {node.address}")


def do_down(options: argparse.Namespace) -> None:
    for prefix in options.prefixes:
        Lab(prefix).down()


def do_list(_: argparse.Namespace) -> None:
    for prefix in labs(the_engine()):
        print(prefix)


def do_engine(options: argparse.Namespace) -> None:
    engine = the_engine()
    if options.action == "start":
        setup()
    elif options.action == "stop":
        stop(engine)
    print(f"{'answers' if engine.answers() else 'is not running'} at {engine.socket}")


def stop(engine: Engine) -> None:
    """Stop the engine; raise BedError while there are labs: another test run may use them."""
    if engine.answers() and (up := labs(engine)):
        raise BedError(f"labs are up: {' '.join(up)}; take them down first")
    engine.stop()


def do_env(_: argparse.Namespace) -> None:
    for name, value in the_engine().client_env().items():
        print(f"export {name}={value}")


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m tests.lab", description="A lab of real parts on this one machine.")
    verbs = top.add_subparsers(required=True, metavar="VERB")

    def verb(name: str, work: Callable[[argparse.Namespace], None], text: str) -> argparse.ArgumentParser:
        sub = verbs.add_parser(name, help=text)
        sub.set_defaults(work=work)
        return sub

    verb("setup", do_setup, "start the outer engine and build all images")
    up = verb("up", do_up, "start a lab")
    up.add_argument("prefix")
    up.add_argument("--profiles", default=DEFAULT_PROFILES, help="one node for each name of profiles/*.conf")
    up.add_argument("--net", type=int, help="N of 198.18.N.0/24, even; the first free one by default")
    up.add_argument("--tags", choices=["none", "demo"], default="none", help="what the mirror holds")
    verb("down", do_down, "remove labs").add_argument("prefixes", nargs="+", metavar="prefix")
    verb("list", do_list, "list running labs")
    verb("engine", do_engine, "the outer engine").add_argument("action", choices=["start", "stop", "status"])
    verb("env", do_env, "shell lines that point a Docker client at the outer engine")
    return top


def main() -> int:
    options = parser().parse_args()
    try:
        options.work(options)
    except BedError as problem:
        print(problem, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
