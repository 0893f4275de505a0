"""Check every layer of the given tags with oras-py. Run by a Python that has it installed, with this file's path.

    python bench/oras_look.py HOST/REPOSITORY CONNECTIONS TAG...

The exit code is 1 where a layer is missing.
"""

import sys
from concurrent.futures import ThreadPoolExecutor
from threading import local
from typing import Any

_THREAD = local()


def client() -> Any:
    """Return the client of this thread. Its session is not thread-safe."""
    if not hasattr(_THREAD, "client"):
        from oras.provider import Registry  # noqa: PLC0415  (installed in another environment)

        _THREAD.client = Registry(insecure=True)
    return _THREAD.client


def is_complete(name: str) -> bool:
    """Return whether the registry has the config and all layers of an image."""
    from oras.container import Container  # noqa: PLC0415

    container = Container(name)
    manifest = client().get_manifest(container)
    return all(client().blob_exists(blob, container) for blob in (manifest["config"], *manifest["layers"]))


def main(repository: str, connections: str, *tags: str) -> int:
    """Return the exit code: 0 if every tag is complete."""
    with ThreadPoolExecutor(int(connections)) as pool:
        found = list(pool.map(is_complete, [f"{repository}:{tag}" for tag in tags]))
    return 0 if all(found) else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
