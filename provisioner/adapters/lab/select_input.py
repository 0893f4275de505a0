"""Files of nodes and tags that a person or a program gives to `provision select`."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from provisioner.adapters.lab.source_location import SourceDocument, read_json
from provisioner.adapters.lab.validation import validated
from provisioner.adapters.state.files import decode, read_text
from provisioner.domain.values.image import TaggedImage
from provisioner.domain.values.model import Value
from provisioner.domain.values.node import NodeFacts, NodeProfile, profile
from provisioner.domain.values.problem import Problem

Model = TypeVar("Model", bound=BaseModel)

PROBE_SCHEMA = "provisioner/probe/1"

_WORDS = {
    "nodes": 'a list such as [{"name": "n1", "driver": "570.172.08", "gpus": [{"compute_capability": "12.0"}]}]',
    "tags": 'a list such as ["pytorch/pytorch:2.8.0-cuda12.8-cudnn9-runtime"]',
    "compute_capability": 'a number in quotes, such as "12.0"',
    "driver": 'a version in quotes, such as "570.172.08", or null',
}


class NodesFile(Value):
    nodes: tuple[NodeProfile, ...]


class ProbeFile(Value):
    """What `provision probe --json` printed."""

    nodes: tuple[NodeFacts, ...]


class TagsFile(Value):
    tags: tuple[TaggedImage, ...]


def read_nodes(source: str) -> tuple[NodeProfile, ...]:
    """`-` is stdin. Raises ProblemError with every mistake and its place."""
    written = _read(source)
    twice = _named_twice(written)
    if isinstance(written.data, dict) and written.data.get("schema") == PROBE_SCHEMA:
        return tuple(profile(facts) for facts in validated(written, ProbeFile, _WORDS, twice).nodes)
    return validated(written, NodesFile, _WORDS, twice).nodes


def read_tags(source: str) -> tuple[TaggedImage, ...]:
    """As `read_nodes`. A bare string is a tag that is complete on the mirror."""
    written = _read(source)
    data = written.data
    if isinstance(data, dict) and isinstance(data.get("tags"), list):
        tags = [{"reference": tag} if isinstance(tag, str) else tag for tag in data["tags"]]
        written = written._replace(data=data | {"tags": tags})
    return validated(written, TagsFile, _WORDS).tags


def _read(source: str) -> SourceDocument:
    if source == "-":
        return read_json("stdin", decode(sys.stdin.buffer.read(), "stdin"))
    return read_json(source, read_text(Path(source), "name a file that is there, or - for stdin"))


def _named_twice(written: SourceDocument) -> Iterator[Problem]:
    """Two nodes of one name: the result holds each name once, so one of them would vanish."""
    seen: set[str] = set()
    for index, name in enumerate(_names(written.data)):
        if name in seen:
            yield Problem(
                "named_twice",
                f'{written.place(("nodes", index, "name"))}: a second node "{name}"',
                "the result names each node once",
                "give every node a name of its own",
            )
        seen.add(name)


def _names(data: Any) -> Iterator[str]:
    nodes = data.get("nodes") if isinstance(data, dict) else None
    for node in nodes if isinstance(nodes, list) else ():
        yield str(node.get("name")) if isinstance(node, dict) else ""
