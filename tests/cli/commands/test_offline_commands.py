"""Verbs that need no node: init, schema, facts, select, mirror check and mirror tags."""

import json
from pathlib import Path
from typing import Any

import pytest

from provisioner.adapters.lab.directory import read_lab
from tests.adapters.registry.made_image import an_image
from tests.adapters.registry.scripted_registry import ScriptedRegistry, served
from tests.builders import a_gpu, a_node
from tests.cli.running import document, run


def test_init_creates_a_lab_that_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ran = run("init", "physics")
    assert ran.exit_code == 0
    assert ran.stdout == "written: inventories/physics/hosts.yml\nwritten: inventories/physics/lab.yml\n"
    assert "Next: " in ran.stderr
    assert read_lab("physics").lab.name == "physics"
    (tmp_path / "a b").mkdir()
    monkeypatch.chdir(tmp_path / "a b")
    assert run("init", ".").stdout == "written: hosts.yml\nwritten: lab.yml\n"
    monkeypatch.chdir(tmp_path)
    assert run("init", "./a b").stderr.endswith("provision probe './a b'\n")
    again = run("init", "physics", "--json")
    assert document(again)["files"] == {"hosts.yml": "kept", "lab.yml": "kept"}


def test_a_mistake_in_lab_yml_is_reported_with_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run("init", "physics")
    settings = tmp_path / "inventories" / "physics" / "lab.yml"
    settings.write_text(settings.read_text().replace("  torch:", "  torhc:"))
    line = next(number for number, text in enumerate(settings.read_text().splitlines(), 1) if "torhc" in text)
    ran = run("plan", "physics")
    assert ran.exit_code == 2
    expected = f'│ inventories/physics/lab.yml:{line}:3: unknown key "torhc" in "image"; did you mean "torch"?\n'
    assert expected in ran.stderr


@pytest.mark.parametrize("which", ["lab", "lock", "plan", "report", "status"])
def test_schemas(which: str) -> None:
    schema = json.loads(run("schema", which).stdout)
    assert schema["$schema"].endswith("2020-12/schema")
    assert schema["type"] == "object"


def test_the_schema_of_lab_yml_names_required_and_optional_keys() -> None:
    schema = json.loads(run("schema").stdout)
    assert (schema["additionalProperties"], schema["required"]) == (False, ["name", "mirror", "registry"])
    assert {"$schema", "image", "rollout"} < set(schema["properties"])
    assert schema["$defs"]["Mirror"]["properties"]["kind"]["enum"][0] == "static"


def test_facts() -> None:
    read = document(run("facts", "show", "--json"))
    assert read["schema"] == "provisioner/facts/1"
    assert read["releases"]
    assert "machine code for" in run("facts", "show").stdout
    assert document(run("facts", "--json")) == read, "as before `show` was a command of its own"


OWN = """\
releases:
  - version: "2.16"
    builds: [{cuda: "12.8", sm: [75, 120], evidence: measured(2.16.0)}]
"""


def test_facts_with_the_rows_of_a_lab(tmp_path: Path) -> None:
    (tmp_path / "lab.yml").write_text("")
    (tmp_path / "compatibility.yaml").write_text(OWN)
    for words in ([str(tmp_path)], ["--data", str(tmp_path / "compatibility.yaml")]):
        read = document(run("facts", "show", *words, "--json"))
        assert read["own"][0]["row"] == "torch 2.16 with CUDA 12.8"
        assert (
            "added by the lab: releases: torch 2.16 with CUDA 12.8 (measured(2.16.0))"
            in run("facts", "show", *words).stdout
        )
    assert run("facts", "show", str(tmp_path), "--data", "x").exit_code == 2
    missing = run("facts", "show", "--data", str(tmp_path / "none.yaml"))
    assert (missing.exit_code, "there is no such file" in missing.stderr) == (2, True)


def test_facts_explain_how_a_lab_adds_a_row() -> None:
    assert "put a file compatibility.yaml into its directory" in run("facts", "show").stdout


TAGS: dict[str, Any] = {
    "tags": [
        "pytorch/pytorch:2.8.0-cuda12.8-cudnn9-runtime",
        {"reference": "pytorch/pytorch:2.9.1-cuda13.0-cudnn9-runtime", "sync": "partial"},
    ]
}
NODE: dict[str, Any] = {
    "name": "n1",
    "platform": "linux/amd64",
    "driver": "570.172.08",
    "kernel_module": "open",
    "toolkit_mode": "legacy",
    "gpus": [{"name": "NVIDIA GeForce RTX 5090", "compute_capability": "12.0", "brand": "geforce"}],
}


@pytest.fixture
def selected(tmp_path: Path) -> Any:
    def select(nodes: Any, tags: Any = TAGS, *more: str) -> Any:
        (tmp_path / "tags.json").write_text(tags if isinstance(tags, str) else json.dumps(tags))
        given = nodes if isinstance(nodes, str) else json.dumps(nodes)
        return run("select", "--nodes", "-", "--tags", str(tmp_path / "tags.json"), *more, stdin=given)

    return select


def test_the_document_of_select(selected: Any) -> None:
    ran = selected({"nodes": [NODE]}, TAGS, "--json")
    assert ran.exit_code == 0
    read = document(ran)
    tag = TAGS["tags"][0]
    assert (read["schema"], read["decision"], read["torch"], read["tag"]) == (
        "provisioner/selection/1",
        "single_tag",
        "2.8.0",
        tag,
    )
    node = read["nodes"]["n1"]
    assert (node["tag"], node["gpus"], node["verdicts"][tag]) == (
        tag,
        [0],
        {"ok": True, "problems": [], "cautions": []},
    )
    refused = node["verdicts"]["pytorch/pytorch:2.9.1-cuda13.0-cudnn9-runtime"]
    assert (refused["ok"], [problem["code"] for problem in refused["problems"]]) == (
        False,
        ["driver_too_old", "not_synced"],
    )
    assert list(read) == ["schema", "decision", "torch", "tag", "nodes", "advice"]


def test_the_text_of_select(selected: Any) -> None:
    ran = selected({"nodes": [NODE]})
    assert ran.exit_code == 0
    assert ran.stdout.startswith(f"One image for every node, torch 2.8.0: {TAGS['tags'][0]}\n")


def test_select_with_additional_data(selected: Any, tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(OWN)
    tags = {"tags": [*TAGS["tags"], "pytorch/pytorch:2.16.0-cuda12.8-cudnn9-runtime"]}
    assert document(selected({"nodes": [NODE]}, tags, "--json"))["torch"] == "2.8.0"
    own = selected({"nodes": [NODE]}, tags, "--json", "--data", str(tmp_path / "own.yaml"))
    assert document(own)["torch"] == "2.16.0"
    (tmp_path / "own.yaml").write_text(OWN.replace("sm:", "cm:"))
    wrong = selected({"nodes": [NODE]}, tags, "--data", str(tmp_path / "own.yaml"))
    assert wrong.exit_code == 2
    assert 'own.yaml:3:29: unknown key "cm"' in wrong.stderr


def test_select_shows_why_a_newer_tag_was_refused_and_what_would_allow_it(selected: Any) -> None:
    shown = selected({"nodes": [NODE]}).stdout
    assert "Why not pytorch:2.9.1-cuda13.0-cudnn9-runtime?" in shown
    assert "advice: upgrade the driver of n1 to 580.178.04 or a newer one of its branch; then torch is 2.9.1" in shown


def test_a_node_without_an_image_is_exit_1(selected: Any) -> None:
    ran = selected({"nodes": [NODE, NODE | {"name": "n2", "gpus": []}]})
    assert ran.exit_code == 1
    assert "╷ gpu_not_visible  n2" in ran.stdout
    assert selected({"nodes": [NODE]}, {"tags": []}).exit_code == 1


def test_select_reads_the_document_of_probe(selected: Any) -> None:
    lost = a_gpu("n1", 1, uuid=None, compute_capability=None)
    facts = a_node("n1", gpus=(a_gpu("n1"), lost)).model_dump(mode="json")
    ran = selected({"schema": "provisioner/probe/1", "nodes": [facts]}, TAGS, "--json")
    assert document(ran)["nodes"]["n1"]["gpus"] == [0]


@pytest.mark.parametrize(
    ("nodes", "tags", "expected"),
    [
        ('{"nodes": [', TAGS, "stdin:1:12: not JSON: Expecting value"),
        ("[]", TAGS, "stdin:1:1: a mapping (key: value) is wanted, a list is given"),
        ("{}", TAGS, 'stdin:1:1: the key "nodes" is missing'),
        ({"nodes": [NODE, NODE]}, TAGS, 'a second node "n1"'),
        ('{"nodes": [\n  {"name": "n1", "driver": "new"}]}', TAGS, "stdin:2:28: nodes[0].driver: not a version: 'new'"),
        ('{"nodes": [], "nodes": []}', TAGS, 'stdin:1:15: the key "nodes" is here twice, first in line 1'),
        ({"nodes": [NODE]}, '{"tags": [{"ref": 1}]}', 'tags.json:1:11: the key "reference" is missing in "tags[0]"'),
        ({"nodes": [NODE]}, '{"tags": [7]}', "tags.json:1:11: tags[0]: a mapping (key: value) is wanted"),
        ({"nodes": [NODE]}, "", "tags.json:1:1: not JSON"),
    ],
)
def test_a_mistake_in_an_input_file_is_reported_with_its_place(
    selected: Any, nodes: Any, tags: Any, expected: str
) -> None:
    ran = selected(nodes, tags)
    assert ran.exit_code == 2
    assert expected in ran.stderr


ENDLESS = "9" * 5000


@pytest.mark.parametrize("name", ["\ud800", "\x1b[31m", "\0", ENDLESS])
@pytest.mark.parametrize(
    "env",
    [
        {"PYTORCH_VERSION": ENDLESS, "CUDA_VERSION": ENDLESS},
        {"PYTORCH_VERSION": f"2.8.0+cu{ENDLESS}", "NVIDIA_REQUIRE_CUDA": f"cuda>={ENDLESS}.1"},
        {"NVIDIA_PYTORCH_VERSION": "25.09", "CUDA_VERSION": "13.0", "TORCH_CUDA_ARCH_LIST": f"{ENDLESS}.0+PTX"},
    ],
)
def test_hostile_values_of_a_node_or_an_image_are_no_bug(selected: Any, name: str, env: dict[str, str]) -> None:
    node = NODE | {"gpus": [NODE["gpus"][0] | {"name": name, "brand": name}]}
    ran = selected({"nodes": [node]}, {"tags": [*TAGS["tags"], {"reference": "lab/torch:x", "env": env}]}, "--json")
    assert ran.exit_code == 0
    assert document(ran)["nodes"]["n1"]["verdicts"]["lab/torch:x"]["ok"] is False


@pytest.mark.parametrize("driver", ["535.183.01-server", ENDLESS, "", "R535"])
def test_a_wrong_driver_version_is_reported_with_its_place(selected: Any, driver: str) -> None:
    ran = selected({"nodes": [NODE | {"driver": driver}]})
    assert ran.exit_code == 2
    assert "stdin:1:64: nodes[0].driver: not a version:" in ran.stderr


def test_check_is_exit_0_only_if_all_images_are_complete() -> None:
    registry = ScriptedRegistry()
    registry.put("pytorch/pytorch", "2.8.0", an_image())
    with served(registry):
        reference = f"{registry.host}/pytorch/pytorch:2.8.0"
        ran = run(
            "mirror", "check", reference, f"{registry.host}/pytorch/pytorch:none", reference, "--plain-http", "--json"
        )
        alone = run("mirror", "check", reference, "--plain-http")
    assert ran.exit_code == 1
    images = document(ran)["images"]
    assert [(image["reference"], image["state"]) for image in images] == [
        (reference, "complete"),
        (reference.replace("2.8.0", "none"), "absent"),
        (reference, "complete"),
    ]
    assert set(images[0]) == {
        "reference",
        "platform",
        "state",
        "digest",
        "bytes",
        "bytes_missing",
        "missing",
        "problems",
    }
    assert alone.exit_code == 0
    assert "1 of 1 image complete." in alone.stdout


def test_a_check_compared_with_upstream() -> None:
    mirror, upstream = ScriptedRegistry(), ScriptedRegistry()
    for tag, image in (("same", an_image()), ("moved", an_image(env=["PYTORCH_VERSION=2.9.1"]))):
        mirror.put("pytorch/pytorch", tag, an_image())
        upstream.put("pytorch/pytorch", tag, image)
    mirror.put("pytorch/pytorch", "own", an_image())
    with served(mirror):
        with served(upstream):
            names = [f"{mirror.host}/pytorch/pytorch:{tag}" for tag in ("same", "moved", "own")]
            words = ["mirror", "check", *names, "--plain-http", "--upstream", f"http://{upstream.host}", "--json"]
            ran = run(*words)
        silent = run(*words)
    found = {image["reference"].rpartition(":")[2]: image for image in document(ran)["images"]}
    assert (ran.exit_code, {tag: image["state"] for tag, image in found.items()}) == (
        1,
        {"same": "complete", "moved": "stale", "own": "complete"},
    )
    (problem,) = found["moved"]["problems"]
    assert problem["code"] == "stale"
    assert all(digest in problem["what"] for digest in (mirror_digest(), mirror_digest("2.9.1")))
    assert silent.exit_code == 0
    assert "not compared with upstream: " in silent.stderr
    assert run(*words[:-2], "--upstream", "docker.io/pytorch").exit_code == 2


def mirror_digest(version: str = "2.8.0") -> str:
    return an_image(env=[f"PYTORCH_VERSION={version}"]).manifest


def test_a_check_of_an_address_that_does_not_answer() -> None:
    ran = run("mirror", "check", "127.0.0.1:1/a/b:c", "--plain-http", "--json")
    assert ran.exit_code == 1
    (image,) = document(ran)["images"]
    assert image["state"] in {"unknown", "no_such_service"}
    assert image["problems"]


def test_mirror_tags_of_a_lab(tmp_path: Path) -> None:
    registry = ScriptedRegistry()
    for tag in ("2.8.0-cuda12.8-cudnn9-runtime", "2.1.0-cuda12.1-cudnn8-runtime", "2.8.0-cuda12.8-cudnn9-devel"):
        registry.put("pytorch/pytorch", tag, an_image())
    with served(registry):
        (tmp_path / "hosts.yml").write_text("all: {hosts: {n1: {}}}\n")
        (tmp_path / "lab.yml").write_text(
            f'name: demo\nmirror: {{address: "{registry.host}", plain_http: true}}\nregistry: {{address: "r:5000"}}\n'
        )
        everything = document(run("mirror", "tags", str(tmp_path), "--json"))
        newer = run("mirror", "tags", str(tmp_path), "--torch", ">=2.8")
    assert everything["schema"] == "provisioner/catalog/1"
    assert len(everything["listings"]) == 3
    assert newer.exit_code == 0
    assert "2.1.0" not in newer.stdout
    assert "2 of 2 images complete." in newer.stdout


def test_mirror_tags_are_listed_newest_first(tmp_path: Path) -> None:
    makes = ["2.9.1-cuda13.0", "2.13.0-cuda12.6", "2.9.1-cuda12.8", "2.13.0-cuda13.2", "2.13.0-cuda13.0"]
    registry = ScriptedRegistry()
    for make in makes:
        torch, _, cuda = make.partition("-cuda")
        image = an_image(env=[f"PYTORCH_VERSION={torch}", f"CUDA_VERSION={cuda}"])
        registry.put("pytorch/pytorch", f"{make}-cudnn9-runtime", image)
    with served(registry):
        (tmp_path / "hosts.yml").write_text("all: {hosts: {n1: {}}}\n")
        (tmp_path / "lab.yml").write_text(
            f'name: demo\nmirror: {{address: "{registry.host}", plain_http: true}}\nregistry: {{address: "r:5000"}}\n'
        )
        listed = document(run("mirror", "tags", str(tmp_path), "--json"))
        shown = run("mirror", "tags", str(tmp_path)).stdout
    newest = [makes[place] for place in (3, 4, 1, 0, 2)]
    assert [entry["image"]["reference"].rpartition(":")[2] for entry in listed["listings"]] == [
        f"{make}-cudnn9-runtime" for make in newest
    ]
    assert sorted(newest, key=shown.index) == newest


@pytest.mark.parametrize(("kind", "state"), [("static", "complete"), ("registry-proxy", "cold")])
def test_mirror_tags_only_lists_a_cache(kind: str, state: str, tmp_path: Path) -> None:
    registry = ScriptedRegistry()
    registry.put("pytorch/pytorch", "2.8.0-cuda12.8-cudnn9-runtime", an_image())
    with served(registry):
        (tmp_path / "hosts.yml").write_text("all: {hosts: {n1: {}}}\n")
        settings = f'{{address: "{registry.host}", plain_http: true, kind: {kind}}}'
        (tmp_path / "lab.yml").write_text(f'name: demo\nmirror: {settings}\nregistry: {{address: "r:5000"}}\n')
        listed = document(run("mirror", "tags", str(tmp_path), "--json"))
    assert [entry["report"]["state"] for entry in listed["listings"]] == [state]
    asked = [asked.path for asked in registry.asked if "/manifests/" in asked.path or "/blobs/" in asked.path]
    assert bool(asked) is (state == "complete")
