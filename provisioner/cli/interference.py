"""What of this machine may stand between it and a mirror: asked where a mirror seems not to have what it should."""

import os
from collections.abc import Iterable

from provisioner.adapters.engine.network import engine_network
from provisioner.domain.registry.interference import of_engine
from provisioner.domain.values.problem import Problem
from provisioner.domain.values.proxy import asked_through, proxy_for


def find_interference(host: str, told: Iterable[Problem], *, plain_http: bool) -> tuple[Problem, ...]:
    """Of our own client and of the engine, beside what was `told` already."""
    before = set(told)
    named = {problem.code for problem in before} & {"proxy_failed", "proxy_in_between"}
    own = None if named else proxy_for(f"{'http' if plain_http else 'https'}://{host}/", os.environ)
    engine = engine_network()
    found = [
        *([] if own is None else [asked_through(host, own)]),
        *([] if engine is None else of_engine(host, engine, plain_http=plain_http)),
    ]
    return tuple(problem for problem in found if problem not in before)
