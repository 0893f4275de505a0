"""How long a look at every layer of a mirror's tags takes, beside other tools, at 30 ms from a real registry.

    python -m bench.registry

Needs root and apt where skopeo or Debian's docker-registry is not there yet, and pip for oras. What one run printed is
in bench/registry.md.
"""

import os
import venv
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter

from bench.latency import delayed
from bench.stock import LAYERS, fill, image
from provisioner.adapters.registry.client import Registry
from tests.adapters.registry.real_registry import RealRegistry, real_registry
from tests.lab.host import cache_dir, program, run
from tests.lab.registry import parse_access

ORAS = "oras==0.2.43"  # in an environment of its own: it is here to be raced against, and no part of the project
MILLISECONDS = 30
TAGS, GROWTH = 200, (25, 50, 100, 200, 500)
ALONE, SHARING = "bench/alone", "bench/sharing"
SHARED_LAYERS = 6
PLATFORM = "linux/amd64"
HERE = Path(__file__).parent


@dataclass(frozen=True)
class Took:
    """`requests`: that the registry answered meanwhile."""

    seconds: float
    requests: int


@dataclass(frozen=True)
class Far:
    """A registry at the end of a long wire: programs know it as `host`. `tags` of ALONE; of SHARING the first ones."""

    registry: RealRegistry
    host: str
    tags: Sequence[str]

    def measure(self, work: Callable[[], object]) -> Took:
        before, began = self._answered(), perf_counter()
        work()
        took = perf_counter() - began
        return Took(took, self._answered() - before)

    def _answered(self) -> int:
        return len(parse_access(self.registry.log.read_text(errors="replace")))

    def ours(self, repository: str, count: int) -> Took:
        """Every layer of `count` tags, by a client that knows nothing yet."""
        wanted = frozenset(self.tags[:count])

        def look() -> None:
            with Registry(self.host, plain_http=True, environment={}) as mirror:
                found = mirror.catalog([repository], PLATFORM, wanted=wanted.__contains__).listings
            complete = sum(entry.report.state == "complete" for entry in found)
            if complete != count:
                raise RuntimeError(f"{complete} of {count} tags are complete")

        return self.measure(look)

    def skopeo(self, skopeo: str, count: int, at_once: int) -> Took:
        names = [f"docker://{self.host}/{ALONE}:{tag}" for tag in self.tags[:count]]

        def inspect(name: str) -> None:
            run(skopeo, "inspect", "--no-tags", "--tls-verify=false", name)

        with ThreadPoolExecutor(at_once) as pool:
            return self.measure(lambda: list(pool.map(inspect, names)))

    def oras(self, python: Path, count: int, at_once: int) -> Took:
        words: list[str | Path] = [
            python,
            HERE / "oras_look.py",
            f"{self.host}/{ALONE}",
            str(at_once),
            *self.tags[:count],
        ]
        return self.measure(lambda: run(*words, env=_no_proxy()))


def main() -> None:
    skopeo, oras = program("skopeo", "skopeo"), _oras()
    with _far() as far:
        print(f"## A look at a mirror that is {MILLISECONDS} ms away\n", flush=True)
        _race(far, skopeo, oras)
        _growth(far)
        _sharing(far)


@contextmanager
def _far() -> Iterator[Far]:
    with TemporaryDirectory() as folder:
        root = Path(folder, "registry")
        tags = fill(root, ALONE, [image(number) for number in range(max(GROWTH))])
        fill(root, SHARING, [image(number, SHARED_LAYERS) for number in range(TAGS)])
        with real_registry(root) as registry, delayed(registry.host, MILLISECONDS) as host:
            yield Far(registry, host, tags)


def _race(far: Far, skopeo: str, oras: Path) -> None:
    """Ours before, between and after the others, since the machine may be busy with something else at times."""
    rivals: dict[str, tuple[str, Callable[[], Took]]] = {
        "skopeo inspect, one by one": ("no layer", lambda: far.skopeo(skopeo, TAGS, 1)),
        "skopeo inspect, eight at once": ("no layer", lambda: far.skopeo(skopeo, TAGS, 8)),
        "oras-py, one by one": ("HEAD of each layer, status only", lambda: far.oras(oras, TAGS, 1)),
        "oras-py, sixteen at once": ("HEAD of each layer, status only", lambda: far.oras(oras, TAGS, 16)),
    }
    ours, theirs = [far.ours(ALONE, TAGS)], dict[str, Took]()
    for name, (_, race) in rivals.items():
        theirs[name] = race()
        ours.append(far.ours(ALONE, TAGS))
    own = median(took.seconds for took in ours)
    print(
        f"{TAGS} tags, each of a config and {LAYERS} layers that no other has; ours is the median of {len(ours)} runs"
    )
    print(f"between the others'. Load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors\n")
    print("| | looks at | seconds | times ours | requests |\n|:--|:--|--:|--:|--:|")
    print(f"| provision | first and last bytes of each layer | {own:.1f} | 1 | {ours[0].requests} |")
    for name, took in theirs.items():
        print(f"| {name} | {rivals[name][0]} | {took.seconds:.1f} | {took.seconds / own:.1f} | {took.requests} |")


def _growth(far: Far) -> None:
    print("\n| tags | seconds | ms a tag | requests | requests a tag |\n|--:|--:|--:|--:|--:|")
    for count in GROWTH:
        took = far.ours(ALONE, count)
        each = took.seconds / count * 1000, took.requests / count
        print(f"| {count} | {took.seconds:.1f} | {each[0]:.0f} | {took.requests} | {each[1]:.1f} |", flush=True)


def _sharing(far: Far) -> None:
    took = far.ours(SHARING, TAGS)
    blobs = TAGS * (LAYERS - SHARED_LAYERS) + SHARED_LAYERS
    print(f"\n{TAGS} tags that share {SHARED_LAYERS} of their {LAYERS} layers: {took.seconds:.1f} s")
    print(f"and {took.requests} requests for {blobs} layers that there are and {TAGS * LAYERS} that manifests name.\n")


def _oras() -> Path:
    """A Python that has oras-py."""
    folder = cache_dir() / ORAS
    python = folder / "bin/python"
    if not (folder / "ready").exists():
        venv.create(folder, with_pip=True, clear=True)
        run(python, "-m", "pip", "install", "-q", ORAS)
        (folder / "ready").touch()
    return python


def _no_proxy() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}


if __name__ == "__main__":
    main()
