"""The options of `provision me` for a seat on a node with self-service."""

from collections.abc import Callable, Iterator, Mapping
from functools import wraps
from typing import Any, NamedTuple

import click

from provisioner.adapters import node_client
from provisioner.domain.rollout.own_seat import check_node

Command = Callable[..., Any]
ACTS = (
    "up",
    "status",
    "down",
    "renew",
    "keep-alive",
    "cancel",
    "upgrade",
    "rotate-token",
    "logs",
    "environments",
)


class NodeOptions(NamedTuple):
    """What was given for a seat on a node. `asked`: options by name, as the client of a node knows them.

    `node`: where, None for this machine. `opens`: open Jupyter. `prints`: print the lines for ssh, and write none.
    """

    asked: Mapping[str, Any]
    service: str | None
    node: str | None
    opens: bool
    prints: bool

    def words(self, act: str) -> list[str]:
        """Return what follows `provision me` on a node. Raises UsageError where it does not fit the act."""
        found = [act, *([self.service] if self.service else []), *self._options()]
        if wrong := node_client.check(found):
            raise click.UsageError(wrong)
        if act != "up" and (self.opens or self.prints):
            raise click.UsageError(f"--open and --print-only are not for `{act}`")
        return found

    def _options(self) -> Iterator[str]:
        for name, value in self.asked.items():
            if value is True:
                yield f"--{name}"
            elif value not in (None, False):
                yield f"--{name}={value}"

    @property
    def need_broker(self) -> bool:
        """Whether any was given that a seat on this machine from a lab's lock does not have."""
        others = [name for name, value in self.asked.items() if value not in (None, False) and name not in _OF_LOCK]
        return bool(self.service or self.node or self.opens or self.prints or others)

    @property
    def environment(self) -> str | None:
        """The environment that was asked for."""
        return self.asked.get("env")


def _node(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    try:
        return None if value is None else check_node(value)
    except ValueError as error:
        raise click.BadParameter(str(error), ctx, param) from None


def with_node_options(command: Command) -> Command:
    """Pass `seat` to the command."""

    @click.argument("service", type=click.Choice(["jupyter", "ssh"]), required=False)
    @click.option("--on", "node", metavar="NODE", callback=_node, help="On this node, as ssh reaches it: [USER@]HOST.")
    @click.option("--env", metavar="NAME", help="up: the environment; see `provision me environments`.")
    @click.option("--gpus", metavar="N", help="up: how many GPUs; 0 for none.")
    @click.option("--hours", metavar="H", help="up, renew, keep-alive: for how long.")
    @click.option("--wait", metavar="2h", help="up: wait so long for a GPU that others have.")
    @click.option("--switch", is_flag=True, help="up: change the environment of a seat that runs; ends its programs.")
    @click.option("--restart", is_flag=True, help="up: change the GPUs of a seat that runs; ends its programs.")
    @click.option("--reason", metavar="TEXT", help="keep-alive: why; the admin sees it.")
    @click.option("--now", is_flag=True, help="upgrade, rotate-token: end what runs in the seat.")
    @click.option("--lines", metavar="N", help="logs: how many lines, up to 200.")
    @click.option("--open", "opens", is_flag=True, help="up --on: open Jupyter in the browser, through SSH.")
    @click.option("--print-only", "prints", is_flag=True, help="up --on: print the lines for ~/.ssh, and write none.")
    @wraps(command)
    def wrapper(*args: Any, service: str | None, node: str | None, opens: bool, prints: bool, **kwargs: Any) -> Any:
        asked = {name: kwargs.pop(name) for name in _NAMES}
        return command(*args, seat=NodeOptions(asked, service, node, opens, prints), **kwargs)

    return wrapper


_OF_LOCK = ("env", "switch")
_NAMES = ("env", "gpus", "hours", "wait", "switch", "restart", "reason", "now", "lines")
