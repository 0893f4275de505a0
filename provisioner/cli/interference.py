"""Find proxies and engine settings of this machine that may change what a mirror seems to have."""

import os
from collections.abc import Iterable

from provisioner.adapters.engine.network import read_engine_network
from provisioner.domain.registry.interference import engine_problems
from provisioner.domain.values.problem import Problem
from provisioner.domain.values.proxy import proxy_for, proxy_problem


def find_interference(host: str, known: Iterable[Problem], *, plain_http: bool) -> tuple[Problem, ...]:
    """Return the problems of this client and of the engine that are not in `known`."""
    reported = set(known)
    has_proxy_problem = any(problem.code in {"proxy_failed", "proxy_in_between"} for problem in reported)
    own = None if has_proxy_problem else proxy_for(f"{'http' if plain_http else 'https'}://{host}/", os.environ)
    engine = read_engine_network()
    found = [
        *([] if own is None else [proxy_problem(host, own)]),
        *([] if engine is None else engine_problems(host, engine, plain_http=plain_http)),
    ]
    return tuple(problem for problem in found if problem not in reported)
