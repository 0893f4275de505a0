"""Measure how long it takes to inspect every layer of a mirror's tags, compared with other tools, 30 ms away.

    python -m bench.registry

Needs root and apt if skopeo or Debian's docker-registry is not installed, and pip for oras. The output of one run is in
bench/registry.md.
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

ORAS = "oras==0.2.43"  # installed in a separate environment: it is only measured here and is not part of the project
MILLISECONDS = 30
TAGS, GROWTH = 200, (25, 50, 100, 200, 500)
ALONE, SHARING = "bench/alone", "bench/sharing"
SHARED_LAYERS = 6
PLATFORM = "linux/amd64"
HERE = Path(__file__).parent


@dataclass(frozen=True)
class Measurement:
    """`requests`: how many requests the registry answered."""

    seconds: float
    requests: int


@dataclass(frozen=True)
class DistantRegistry:
    """A registry behind a delay, reached at `host`. `tags`: those of ALONE; SHARING has the first of them."""

    registry: RealRegistry
    host: str
    tags: Sequence[str]

    def measure(self, work: Callable[[], object]) -> Measurement:
        """Run `work` and measure it."""
        before, start = self._count_requests(), perf_counter()
        work()
        took = perf_counter() - start
        return Measurement(took, self._count_requests() - before)

    def _count_requests(self) -> int:
        return len(parse_access(self.registry.log.read_text(errors="replace")))

    def ours(self, repository: str, count: int) -> Measurement:
        """Inspect every layer of `count` tags with our client and empty caches."""
        wanted = frozenset(self.tags[:count])

        def inspect() -> None:
            with Registry(self.host, plain_http=True, environment={}) as mirror:
                found = mirror.catalog([repository], PLATFORM, wanted=wanted.__contains__).listings
            complete = sum(entry.report.state == "complete" for entry in found)
            if complete != count:
                raise RuntimeError(f"{complete} of {count} tags are complete")

        return self.measure(inspect)

    def skopeo(self, skopeo: str, count: int, at_once: int) -> Measurement:
        """Run `skopeo inspect` for `count` tags, which reads no layer."""
        names = [f"docker://{self.host}/{ALONE}:{tag}" for tag in self.tags[:count]]

        def inspect(name: str) -> None:
            run(skopeo, "inspect", "--no-tags", "--tls-verify=false", name)

        with ThreadPoolExecutor(at_once) as pool:
            return self.measure(lambda: list(pool.map(inspect, names)))

    def oras(self, python: Path, count: int, at_once: int) -> Measurement:
        """Check every layer of `count` tags with oras-py."""
        words: list[str | Path] = [
            python,
            HERE / "oras_look.py",
            f"{self.host}/{ALONE}",
            str(at_once),
            *self.tags[:count],
        ]
        return self.measure(lambda: run(*words, env=_no_proxy()))


def main() -> None:
    """Print the tables: compared with other tools, by number of tags, and with shared layers."""
    skopeo, oras = program("skopeo", "skopeo"), _oras_python()
    with _distant_registry() as registry:
        print(f"## Inspecting a mirror that is {MILLISECONDS} ms away\n", flush=True)
        _compare(registry, skopeo, oras)
        _growth(registry)
        _sharing(registry)


@contextmanager
def _distant_registry() -> Iterator[DistantRegistry]:
    with TemporaryDirectory() as folder:
        root = Path(folder, "registry")
        tags = fill(root, ALONE, [image(number) for number in range(max(GROWTH))])
        fill(root, SHARING, [image(number, SHARED_LAYERS) for number in range(TAGS)])
        with real_registry(root) as real, delayed(real.host, MILLISECONDS) as host:
            yield DistantRegistry(real, host, tags)


def _compare(registry: DistantRegistry, skopeo: str, oras: Path) -> None:
    """Measure ours before, between and after the others, as the load of the machine may change."""
    others: dict[str, tuple[str, Callable[[], Measurement]]] = {
        "skopeo inspect, one by one": ("no layer", lambda: registry.skopeo(skopeo, TAGS, 1)),
        "skopeo inspect, eight at once": ("no layer", lambda: registry.skopeo(skopeo, TAGS, 8)),
        "oras-py, one by one": ("HEAD of each layer, status only", lambda: registry.oras(oras, TAGS, 1)),
        "oras-py, sixteen at once": ("HEAD of each layer, status only", lambda: registry.oras(oras, TAGS, 16)),
    }
    ours, theirs = [registry.ours(ALONE, TAGS)], dict[str, Measurement]()
    for name, (_, measure) in others.items():
        theirs[name] = measure()
        ours.append(registry.ours(ALONE, TAGS))
    own = median(took.seconds for took in ours)
    print(
        f"{TAGS} tags, each of a config and {LAYERS} layers that no other has; ours is the median of {len(ours)} runs"
    )
    print(f"between the others'. Load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors\n")
    print("| | inspects | seconds | times ours | requests |\n|:--|:--|--:|--:|--:|")
    print(f"| provision | first and last bytes of each layer | {own:.1f} | 1 | {ours[0].requests} |")
    for name, took in theirs.items():
        print(f"| {name} | {others[name][0]} | {took.seconds:.1f} | {took.seconds / own:.1f} | {took.requests} |")


def _growth(registry: DistantRegistry) -> None:
    print("\n| tags | seconds | ms a tag | requests | requests a tag |\n|--:|--:|--:|--:|--:|")
    for count in GROWTH:
        took = registry.ours(ALONE, count)
        each = took.seconds / count * 1000, took.requests / count
        print(f"| {count} | {took.seconds:.1f} | {each[0]:.0f} | {took.requests} | {each[1]:.1f} |", flush=True)


def _sharing(registry: DistantRegistry) -> None:
    took = registry.ours(SHARING, TAGS)
    blobs = TAGS * (LAYERS - SHARED_LAYERS) + SHARED_LAYERS
    print(f"\n{TAGS} tags that share {SHARED_LAYERS} of their {LAYERS} layers: {took.seconds:.1f} s")
    print(f"and {took.requests} requests for {blobs} layers that there are and {TAGS * LAYERS} that manifests name.\n")


def _oras_python() -> Path:
    """Return a Python that has oras-py, installed if needed."""
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
