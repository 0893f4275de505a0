"""oras-py's look at every layer of every tag given: run by the Python that has it, with this file's path.

    python bench/oras_look.py HOST/REPOSITORY CONNECTIONS TAG...

It ends with 1 where a layer is not there.
"""

import sys
from concurrent.futures import ThreadPoolExecutor
from threading import local
from typing import Any

_OWN = local()


def client() -> Any:
    """One for each thread: its session is not made to be shared."""
    if not hasattr(_OWN, "client"):
        from oras.provider import Registry  # noqa: PLC0415  (of another environment)

        _OWN.client = Registry(insecure=True)
    return _OWN.client


def look(name: str) -> bool:
    from oras.container import Container  # noqa: PLC0415

    container = Container(name)
    manifest = client().get_manifest(container)
    return all(client().blob_exists(blob, container) for blob in (manifest["config"], *manifest["layers"]))


def main(repository: str, connections: str, *tags: str) -> int:
    with ThreadPoolExecutor(int(connections)) as pool:
        found = list(pool.map(look, [f"{repository}:{tag}" for tag in tags]))
    return 0 if all(found) else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
