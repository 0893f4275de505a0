"""Settings of the container engine that hide what a mirror really has."""

from collections.abc import Iterator

from provisioner.domain.values.model import Value
from provisioner.domain.values.problem import Problem
from provisioner.domain.values.proxy import proxy_for, proxy_problem


class EngineNetwork(Value):
    """The engine's registry settings as `docker info` shows them. `mirrors`: its registry-mirrors, by URL."""

    mirrors: tuple[str, ...] = ()
    http_proxy: str = ""
    https_proxy: str = ""
    no_proxy: str = ""


def engine_problems(host: str, engine: EngineNetwork, *, plain_http: bool) -> tuple[Problem, ...]:
    """Return a Problem for each engine setting that diverts requests for the registry `host`."""
    return tuple(_engine_problems(host, engine, f"{'http' if plain_http else 'https'}://{host}/"))


def _engine_problems(host: str, engine: EngineNetwork, url: str) -> Iterator[Problem]:
    if engine.mirrors:
        yield Problem(
            "registry_mirrors",
            f"Docker on this machine has registry-mirrors: {', '.join(engine.mirrors)}",
            "Docker uses them only for images of Docker Hub and silently falls back to Docker Hub for whatever they "
            f"lack: a successful pull proves nothing about {host}",
            f"to see what the mirror itself has, pull by its own name: docker pull {host}/REPOSITORY@DIGEST",
        )
    settings = {"HTTP_PROXY": engine.http_proxy, "HTTPS_PROXY": engine.https_proxy, "NO_PROXY": engine.no_proxy}
    if (proxy := proxy_for(url, settings)) is not None:
        problem = proxy_problem(host, proxy, "Docker on this machine")
        fix = f'{problem.fix}, as "proxies": {{"no-proxy": …}} in /etc/docker/daemon.json; then restart Docker'
        yield problem.model_copy(update={"fix": fix})
