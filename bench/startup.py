"""What `provision select` on a lab of 200 nodes spends: the interpreter's start, imports, its own work."""

import json
import subprocess
import sys
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter

from bench.group import lab, nodes, tags

_RUNS = 5


def main() -> None:
    with TemporaryDirectory() as folder:
        fleet, offer = Path(folder, "nodes.json"), Path(folder, "tags.json")
        fleet.write_text(json.dumps({"nodes": [node.model_dump(mode="json") for node in lab(200)]}))
        offer.write_text(json.dumps({"tags": [tag.reference for tag in tags(60)]}))
        words = ["-m", "provisioner", "select", "--nodes", str(fleet), "--tags", str(offer), "--json"]
        runs = {
            "python -c pass": ["-c", "pass"],
            "provision --help": ["-m", "provisioner", "--help"],
            "imports of select": ["-c", "import provisioner.cli.commands.select, rich.console"],
            "… and the data": [
                "-c",
                "import provisioner.cli.commands.select as s, rich.console; s.load()",
            ],
            "provision select, 1 node": [*words[:4], str(_one(folder)), *words[5:-1]],
            "provision select, 200 nodes of 8 kinds": words[:-1],
            "the same with --json": words,
        }
        print("## Start-up (median of five runs)\n\n| run | seconds |\n|:--|--:|")
        for name, arguments in runs.items():
            print(f"| {name} | {_took(arguments):.3f} |", flush=True)


def _one(folder: str) -> Path:
    path = Path(folder, "one.json")
    path.write_text(json.dumps({"nodes": [node.model_dump(mode="json") for node in nodes(1)]}))
    return path


def _took(arguments: list[str]) -> float:
    took = []
    for _ in range(_RUNS):
        start = perf_counter()
        subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
        took.append(perf_counter() - start)
    return median(took)
