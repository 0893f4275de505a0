"""What a node needs, by its observed state, without a node."""

from pathlib import Path
from typing import Any

import pytest

from tests.playbooks.node_code import module_util

distribution: Any = module_util("prepare.distribution")
needs: Any = module_util("prepare.needs")

TRIXIE = distribution.parse_os_release("ID=debian\nVERSION_CODENAME=trixie\n")
BOOKWORM = distribution.parse_os_release("ID=debian\nVERSION_CODENAME=bookworm\n")
DOCKER, OTHER_DOCKER = (
    distribution.docker_source({"uri": f"{uri}/docker-ce/linux", "key": "K"}, TRIXIE)
    for uri in ("https://m.example", "http://n.example")
)
NVIDIA = distribution.nvidia_source({"uri": "https://m.example/nvidia", "key": "K"}, "linux/amd64")
# A node that is ready, with one GPU.
READY = needs.NodeState(
    distribution=TRIXIE,
    docker=(),
    nvidia=(NVIDIA,),
    written=frozenset({NVIDIA}),
    engine="26.1.5",
    compose="2.26.1",
    engine_installed=True,
    docker_ce=False,
    containers=2,
    gpus=1,
    uuids=("GPU-1",),
    toolkit=True,
    cdi_on=True,
    cdi_setting=True,
    cdi_complete=True,
    hook_is_newer=True,
    has_ca_certificates=True,
    untrusted=False,
)
NO_ENGINE = {"engine": None, "compose": None, "engine_installed": False, "containers": 0, "cdi_on": False}
NO_TOOLKIT = {"toolkit": False, "cdi_complete": False, "written": frozenset()}
BARE = NO_ENGINE | NO_TOOLKIT | {"cdi_setting": None, "untrusted": True, "hook_is_newer": False}

CASES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "ready": ({}, []),
    "bare, with a GPU": (BARE, ["cdi", "packages", "source", "packages", "specification", "trust"]),
    "bare, without a GPU": (BARE | {"gpus": 0, "uuids": ()}, ["packages", "trust"]),
    "bare, with a mirror of Docker's": (BARE | {"docker": (DOCKER,), "gpus": 0}, ["source", "packages", "trust"]),
    "an https source on a node without ca-certificates": (
        BARE | {"docker": (OTHER_DOCKER, DOCKER), "gpus": 0, "has_ca_certificates": False},
        ["packages", "source", "packages", "trust"],
    ),
    "one of several sources is there, and may lack the packages": (
        BARE | {"docker": (DOCKER, OTHER_DOCKER), "written": frozenset({DOCKER}), "gpus": 0},
        ["source", "packages", "trust"],
    ),
    "the source is there, its packages are not": (NO_TOOLKIT | {"written": {NVIDIA}}, ["packages", "specification"]),
    "toolkit from the node's own sources": (NO_TOOLKIT | {"nvidia": ()}, ["packages", "specification"]),
    "a GPU that the driver does not list": (BARE | {"uuids": ()}, ["cdi", "packages", "source", "packages", "trust"]),
    "engine stopped": ({"engine": None, "cdi_on": False, "containers": 0}, ["start"]),
    "many seats, on a kernel that allows few containers": ({"inotify_instances": 128}, ["inotify"]),
    "many seats, on a kernel that allows them": ({"inotify_instances": 8192}, []),
    "no compose": ({"compose": None}, ["packages"]),
    "compose v1": ({"compose": "1.29.2"}, ["packages"]),
    "a GPU that the specification does not name": ({"cdi_complete": False}, ["specification"]),
    "CDI was never switched on": ({"cdi_on": False, "cdi_setting": None, "containers": 0}, ["cdi", "restart"]),
    "CDI was switched on after the engine started": ({"cdi_on": False, "containers": 0}, ["restart"]),
    "features.cdi is false": (
        {"cdi_on": False, "cdi_setting": False, "hook_is_newer": False, "cdi_complete": False},
        [],
    ),
    "an engine before CDI": ({"engine": "24.0.7", "cdi_on": False, "cdi_setting": None, "hook_is_newer": False}, []),
    "an engine before CDI, and a hook installed after its start": (
        {"engine": "24.0.7", "cdi_on": False, "cdi_setting": None, "containers": 0},
        ["restart"],
    ),
    "no GPU, so no CDI": ({"gpus": 0, "uuids": (), "cdi_on": False, "cdi_setting": None, "toolkit": False}, []),
}


@pytest.mark.parametrize("name", CASES)
def test_needs_of_a_node_in_order(name: str) -> None:
    over, expected = CASES[name]
    found = needs.find_needs(READY._replace(**over), may_restart=False)
    assert [need.action for need in found] == expected
    assert not any(need.deferred for need in found)


@pytest.mark.parametrize(
    ("over", "acts"),
    [
        ({"cdi_on": False, "cdi_setting": None}, ["cdi", "restart"]),
        ({"cdi_on": False}, ["restart"]),
        ({"engine": "24.0.7", "cdi_on": False}, ["restart"]),
    ],
)
def test_a_restart_that_would_stop_containers_is_deferred_unless_requested(
    over: dict[str, Any], acts: list[str]
) -> None:
    seen = READY._replace(**over)
    deferred, asked = needs.find_needs(seen, may_restart=False), needs.find_needs(seen, may_restart=True)
    assert [need.action for need in deferred] == [need.action for need in asked] == acts
    assert all(need.deferred for need in deferred)
    assert not any(need.deferred for need in asked)


def test_other_needs_are_not_deferred_with_a_restart() -> None:
    seen = READY._replace(cdi_on=False, toolkit=False, untrusted=True)
    found = needs.find_needs(seen, may_restart=False)
    assert [(need.action, need.deferred) for need in found] == [
        ("packages", False),
        ("restart", True),
        ("trust", False),
    ]


def test_compose_packages_match_the_installed_engine() -> None:
    own, of_docker = (
        needs.find_needs(READY._replace(compose=None, docker=(DOCKER,), docker_ce=ce), may_restart=False)
        for ce in (False, True)
    )
    assert [need.detail.get("packages") for need in own] == [["docker-compose"]]
    assert [(need.action, need.detail["packages"]) for need in of_docker] == [
        ("source", ["docker-compose-plugin"]),
        ("packages", ["docker-compose-plugin"]),
    ]


def test_a_distribution_without_compose_is_accepted_if_compose_is_installed() -> None:
    assert needs.find_needs(READY._replace(distribution=BOOKWORM), may_restart=False) == []


def test_the_needs_name_every_source_and_then_the_one_that_is_used() -> None:
    bare = READY._replace(**BARE | {"docker": (DOCKER, OTHER_DOCKER), "gpus": 0, "untrusted": False})
    first = [need.description for need in needs.find_needs(bare, may_restart=False)]
    assert [(DOCKER.uri in words, OTHER_DOCKER.uri in words) for words in first] == [(True, True), (False, False)]
    then = needs.find_needs(bare._replace(written=frozenset({OTHER_DOCKER})), may_restart=False)
    assert then[-1].description.endswith(f"from {OTHER_DOCKER.uri}")


def test_the_kernel_is_told_now_and_at_every_boot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    observe, actions = module_util("prepare.observe"), module_util("prepare.actions")
    kernel, sysctl = tmp_path / "max_user_instances", tmp_path / "60-provisioner.conf"
    kernel.write_text("128\n")
    monkeypatch.setattr(observe, "INOTIFY", kernel)
    monkeypatch.setattr(actions, "INOTIFY", kernel)
    monkeypatch.setattr(actions, "SYSCTL", sysctl)
    low = READY._replace(inotify_instances=observe._inotify_instances())
    (need,) = needs.find_needs(low, may_restart=False)
    actions.ACTIONS[need.action](need, {}, None)
    assert needs.find_needs(low._replace(inotify_instances=observe._inotify_instances()), may_restart=False) == []
    assert sysctl.read_text() == "fs.inotify.max_user_instances = 1024\n"
