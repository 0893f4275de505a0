"""What on this machine can make a mirror look as if it had not synced, or a pull as if it had."""

from collections.abc import Iterator

from provisioner.domain.values.model import Value
from provisioner.domain.values.problem import Problem
from provisioner.domain.values.proxy import asked_through, proxy_for


class EngineNetwork(Value):
    """How an engine reaches registries, as `docker info` says it. `mirrors`: its registry-mirrors, by URL."""

    mirrors: tuple[str, ...] = ()
    http_proxy: str = ""
    https_proxy: str = ""
    no_proxy: str = ""


def of_engine(host: str, engine: EngineNetwork, *, plain_http: bool) -> tuple[Problem, ...]:
    """What of the engine's own settings stands between it and `host` (a registry)."""
    return tuple(_found(host, engine, f"{'http' if plain_http else 'https'}://{host}/"))


def _found(host: str, engine: EngineNetwork, url: str) -> Iterator[Problem]:
    if engine.mirrors:
        yield _falls_back(host, engine.mirrors)
    settings = {"HTTP_PROXY": engine.http_proxy, "HTTPS_PROXY": engine.https_proxy, "NO_PROXY": engine.no_proxy}
    if (proxied := proxy_for(url, settings)) is not None:
        told = asked_through(host, proxied, "Docker on this machine")
        fix = f'{told.fix}, as "proxies": {{"no-proxy": …}} in /etc/docker/daemon.json; then restart Docker'
        yield told.model_copy(update={"fix": fix})


def _falls_back(host: str, mirrors: tuple[str, ...]) -> Problem:
    return Problem(
        "registry_mirrors",
        f"Docker on this machine has registry-mirrors: {', '.join(mirrors)}",
        (
            "they are asked for images of Docker Hub alone, and what they lack comes from Docker Hub without a word: a "
            f"pull that works says nothing of {host}"
        ),
        f"to see what the mirror itself has, pull by its own name: docker pull {host}/REPOSITORY@DIGEST",
    )
