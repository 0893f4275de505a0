"""Read the files of nodes and tags that `provision select` takes."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from provisioner.adapters.lab.source_location import SourceDocument, read_json
from provisioner.adapters.lab.validation import validate_document
from provisioner.adapters.state.files import decode, read_text
from provisioner.domain.values.image import TaggedImage
from provisioner.domain.values.model import Value
from provisioner.domain.values.node import NodeFacts, NodeProfile, profile
from provisioner.domain.values.problem import Problem

PROBE_SCHEMA = "provisioner/probe/1"

_EXPECTED = {
    "nodes": 'a list such as [{"name": "n1", "driver": "570.172.08", "gpus": [{"compute_capability": "12.0"}]}]',
    "tags": 'a list such as ["pytorch/pytorch:2.8.0-cuda12.8-cudnn9-runtime"]',
    "compute_capability": 'a number in quotes, such as "12.0"',
    "driver": 'a version in quotes, such as "570.172.08", or null',
}


class NodesFile(Value):
    """Nodes as a user writes them: name, driver and GPUs."""

    nodes: tuple[NodeProfile, ...]


class ProbeFile(Value):
    """The output of `provision probe --json`."""

    nodes: tuple[NodeFacts, ...]


class TagsFile(Value):
    """Tags of a mirror, each with what is known of its image."""

    tags: tuple[TaggedImage, ...]


def read_nodes(source: str) -> tuple[NodeProfile, ...]:
    """Return the nodes of a nodes file or of a probe's output. `-` reads stdin.

    Raises ProblemError (usage) with every mistake and its place.
    """
    document = _read(source)
    duplicates = _duplicate_names(document)
    if isinstance(document.data, dict) and document.data.get("schema") == PROBE_SCHEMA:
        return tuple(profile(facts) for facts in validate_document(document, ProbeFile, _EXPECTED, duplicates).nodes)
    return validate_document(document, NodesFile, _EXPECTED, duplicates).nodes


def read_tags(source: str) -> tuple[TaggedImage, ...]:
    """Return the tags of a tags file. `-` reads stdin; a bare string is a tag that is complete on the mirror.

    Raises ProblemError (usage) with every mistake and its place.
    """
    document = _read(source)
    data = document.data
    if isinstance(data, dict) and isinstance(data.get("tags"), list):
        tags = [{"reference": tag} if isinstance(tag, str) else tag for tag in data["tags"]]
        document = document._replace(data=data | {"tags": tags})
    return validate_document(document, TagsFile, _EXPECTED).tags


def _read(source: str) -> SourceDocument:
    if source == "-":
        return read_json("stdin", decode(sys.stdin.buffer.read(), "stdin"))
    return read_json(source, read_text(Path(source), "name an existing file, or - for stdin"))


def _duplicate_names(document: SourceDocument) -> Iterator[Problem]:
    """Yield a problem for each repeated node name. The result is keyed by name, so one of the nodes would be lost."""
    seen: set[str] = set()
    for index, name in enumerate(_names(document.data)):
        if name in seen:
            yield Problem(
                "named_twice",
                f'{document.place(("nodes", index, "name"))}: a second node "{name}"',
                "the result has one entry for each name",
                "give every node a different name",
            )
        seen.add(name)


def _names(data: Any) -> Iterator[str]:
    nodes = data.get("nodes") if isinstance(data, dict) else None
    for node in nodes if isinstance(nodes, list) else ():
        yield str(node.get("name")) if isinstance(node, dict) else ""
