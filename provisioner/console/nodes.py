"""What the probe brought: one row for nodes that are alike, and below it what is wrong with any of them."""

from collections import Counter
from collections.abc import Iterable, Mapping

from rich.console import Group
from rich.text import Text

from provisioner.console.problems import problems
from provisioner.console.tables import cell, folded, table
from provisioner.console.text import count
from provisioner.domain.values.node import Gpu, NodeFacts
from provisioner.domain.values.problem import Problem

Probed = Mapping[str, NodeFacts | Problem]
_Row = tuple[str, str, str, str]


def probe_table(probed: Probed) -> Group:
    made = table("nodes", "GPUs", "driver", "engine", "problems")
    for names, (gpus, driver, engine, codes) in folded((name, _row(value)) for name, value in probed.items()):
        made.add_row(names, cell(gpus), cell(driver), cell(engine), cell(codes, "red"))
    seen = sum(isinstance(value, NodeFacts) for value in probed.values())
    answered = Text(f"\n{seen} of {count(len(probed), 'node')} answered.")
    return Group(made, problems(_problems(probed)), answered)


def _row(value: NodeFacts | Problem) -> _Row:
    if isinstance(value, Problem):
        return "", "", "", value.code
    codes = dict.fromkeys(problem.code for problem in _of_node(value))
    return _gpus(value), _driver(value), _engine(value), ", ".join(codes)


def _gpus(facts: NodeFacts) -> str:
    kinds = Counter(_card(gpu) for gpu in facts.gpus)
    found = ", ".join(f"{number} x {kind}" if number > 1 else kind for kind, number in kinds.items())
    return found or _absent(facts, "gpus")


def _card(gpu: Gpu) -> str:
    return f"{gpu.name or 'unknown card'} ({gpu.compute_capability or 'unusable'})"


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


def _of_node(facts: NodeFacts) -> list[Problem]:
    return [*facts.problems, *(problem for gpu in facts.gpus for problem in gpu.problems)]


def _problems(probed: Probed) -> Iterable[tuple[str, Problem]]:
    for name, value in probed.items():
        for problem in [value] if isinstance(value, Problem) else _of_node(value):
            yield name, problem
