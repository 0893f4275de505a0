"""The result of a probe: one row for equal nodes, then their problems."""

from collections import Counter
from collections.abc import Iterable, Mapping

from rich.console import Group
from rich.text import Text

from provisioner.console.problems import problems
from provisioner.console.tables import cell, group_rows, make_table
from provisioner.console.text import count
from provisioner.domain.values.node import Gpu, NodeFacts
from provisioner.domain.values.problem import Problem

Probed = Mapping[str, NodeFacts | Problem]
_Row = tuple[str, str, str, str]


def probe_table(probed: Probed) -> Group:
    """Render a row for each group of equal nodes, then the problems and how many nodes answered."""
    rows = make_table("nodes", "GPUs", "driver", "engine", "problems")
    for names, (gpus, driver, engine, codes) in group_rows((name, _row(value)) for name, value in probed.items()):
        rows.add_row(names, cell(gpus), cell(driver), cell(engine), cell(codes, "red"))
    seen = sum(isinstance(value, NodeFacts) for value in probed.values())
    answered = Text(f"\n{seen} of {count(len(probed), 'node')} answered.")
    return Group(rows, problems(_problems(probed)), answered)


def host_key_table(rows: Iterable[tuple[str, str, str]]) -> Group:
    """Render hosts with new keys: name in known_hosts, nodes, fingerprints."""
    table = make_table("host", "for", "fingerprint")
    for row in rows:
        table.add_row(*map(cell, row))
    return Group(table)


def _row(value: NodeFacts | Problem) -> _Row:
    if isinstance(value, Problem):
        return "", "", "", value.code
    codes = dict.fromkeys(problem.code for problem in _node_problems(value))
    return _gpus(value), _driver(value), _engine(value), ", ".join(codes)


def _gpus(facts: NodeFacts) -> str:
    kinds = Counter(_gpu(gpu) for gpu in facts.gpus)
    found = ", ".join(f"{number} x {kind}" if number > 1 else kind for kind, number in kinds.items())
    return found or _absent(facts, "gpus")


def _gpu(gpu: Gpu) -> str:
    mode = ", MIG mode" if gpu.mig_enabled else ""
    return f"{gpu.name or 'unknown GPU'} ({gpu.compute_capability or 'unusable'}{mode})"


def _driver(facts: NodeFacts) -> str:
    if facts.driver is None:
        return _absent(facts, "driver")
    return f"{facts.driver} {facts.kernel_module or ''}".rstrip()


def _engine(facts: NodeFacts) -> str:
    if facts.engine is None:
        return _absent(facts, "engine")
    compose = f", compose {facts.engine.compose_version}" if facts.engine.compose_version else ", no compose"
    return f"{facts.engine.version}{compose}"


def _absent(facts: NodeFacts, fact: str) -> str:
    return f"none: {facts.absent_because[fact]}" if fact in facts.absent_because else "none"


def _node_problems(facts: NodeFacts) -> list[Problem]:
    return [*facts.problems, *facts.gpu_problems]


def _problems(probed: Probed) -> Iterable[tuple[str, Problem]]:
    for name, value in probed.items():
        for problem in [value] if isinstance(value, Problem) else _node_problems(value):
            yield name, problem
