"""The connection to one registry: its session, its worker threads and its cache of layers."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed, wait
from pathlib import Path
from typing import Any, Self, TypeVar

from provisioner.adapters.registry.blob_probe import BlobProbe
from provisioner.adapters.registry.layer_cache import LayerCache
from provisioner.adapters.registry.reader import ManifestReader
from provisioner.adapters.registry.retry import Sender
from provisioner.adapters.registry.session import Session, api_host
from provisioner.adapters.registry.transport import RetryPolicy, Transport
from provisioner.domain.lab.lab import MirrorKind
from provisioner.domain.values.event import Event, OnEvent
from provisioner.domain.values.problem import Problem
from provisioner.domain.values.proxy import proxy_problem

A = TypeVar("A")
B = TypeVar("B")

# These mirrors may download a layer to answer a question about it, so lists of tags are read without layers.
_LAZY: frozenset[MirrorKind] = frozenset({"registry-proxy", "harbor-proxy", "lazy"})
# Campus and public mirrors ban clients that open many connections (tuna/issues#1922, #2354).
_PUBLIC: frozenset[MirrorKind] = frozenset({"lazy", "redirector"})
# More connections do not speed up a registry in the lab, which is limited by its processor (bench/registry.py).
_CONNECTIONS, _PUBLIC_CONNECTIONS = 32, 8
_PROGRESS_EVENTS = 50  # of one call of `_run_all`, at most


def _ignore(_: Event) -> None:
    """Drop the event."""


class RegistryConnection:
    """A context manager: after it is left, also by ^C, none of its threads runs.

    `address` is HOST[:PORT], `connections` overrides the number for the `kind` of mirror. A layer that was found
    complete is not checked again for `cache_seconds`, by this or another run.
    """

    def __init__(  # noqa: PLR0913  (where it is, how to reach it, how to treat it)
        self,
        address: str,
        *,
        ca: Path | None = None,
        plain_http: bool = False,
        kind: MirrorKind = "static",
        connections: int | None = None,
        on_event: OnEvent = _ignore,
        environment: Mapping[str, str] | None = None,
        policy: RetryPolicy | None = None,
        cache_seconds: float = 0,
    ) -> None:
        """Open no connection yet. Raises ProblemError if the file `ca` cannot be read."""
        policy = policy or RetryPolicy()
        width = connections or (_PUBLIC_CONNECTIONS if kind in _PUBLIC else _CONNECTIONS)
        environment = os.environ if environment is None else environment
        self.address = address
        self._lazy = kind in _LAZY
        self._on_event = on_event
        self._transport = Transport(ca=ca, connections=width, policy=policy, environment=environment)
        self._sender = Sender(self._transport, policy, api_host(address))
        session = Session(address, plain_http=plain_http, sender=self._sender, environment=environment)
        self._proxy = self._transport.proxy(session.base)
        self._layer_cache = LayerCache(session.base, cache_seconds)
        self._reader = ManifestReader(session, address)
        self._probe = BlobProbe(session, self._lazy)
        self._workers = ThreadPoolExecutor(width, thread_name_prefix="registry")
        self._running: list[Future[Any]] = []

    def __enter__(self) -> Self:
        """Return the connection itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connection."""
        self.close()

    def close(self) -> None:
        """Cut the requests that are running, wait for their threads and save the cache of layers."""
        self._sender.stopped.set()
        self._workers.shutdown(wait=False, cancel_futures=True)
        while not all(future.done() for future in self._running):
            self._transport.cut()  # repeated: a thread may have just sent its request
            wait(self._running, timeout=0.1)
        self._transport.close()
        self._layer_cache.save()

    def _run_all(self, work: Callable[[A], B], items: Sequence[A], text: str) -> list[B]:
        """Call `work` for each item in the worker threads; results in order. The first exception ends all of them."""
        self._running = futures = [self._workers.submit(work, item) for item in items]
        step = max(1, len(items) // _PROGRESS_EVENTS)
        try:
            for done, future in enumerate(as_completed(futures), 1):
                future.result()
                if done % step == 0 or done == len(items):
                    self._on_event(Event(phase="catalog", kind="progress", text=text, done=done, total=len(items)))
        except BaseException:
            for future in futures:
                future.cancel()
            raise
        return [future.result() for future in futures]

    def _proxy_problems(self, problems: Iterable[Problem]) -> tuple[Problem, ...]:
        """Return the note that a proxy is used; empty without a proxy, or if `problems` name a fault of the proxy."""
        if self._proxy is None or any(problem.code == "proxy_failed" for problem in problems):
            return ()
        return (proxy_problem(self.address, self._proxy),)
