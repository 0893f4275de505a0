"""A person of the roster."""

from datetime import date
from typing import Literal

from provisioner.domain.lab.environments import DEFAULT_ENVIRONMENT
from provisioner.domain.values.model import Value


class Person(Value):
    """One row of the roster. `id`: the name of the account on the nodes, or of a person without an account.

    `uid`: also the gid; only for a person without an account. `node`: a name or a pattern; empty: any node. `gpus`: so
    many cards of their own, or `shared`: every card of the node that is not somebody's own. `group` empty: not said.
    `until`: the last day. `keys`: lines of public SSH keys. `row`: its line in the file.
    """

    id: str
    uid: int | None = None
    node: str = ""
    gpus: int | Literal["shared"] = 0
    environment: str = DEFAULT_ENVIRONMENT
    group: str = ""
    until: date | None = None
    keys: tuple[str, ...] = ()
    row: int = 0
