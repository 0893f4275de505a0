"""The orders that prepare a node and the registry."""

from typing import Any

import pytest
from pydantic import ValidationError

from provisioner.domain.lab.lab import PackageSource
from provisioner.domain.rollout.preparation import prepare_order, registry_order
from tests.builders import a_lab

DOCKER = "https://mirror.example/docker-ce/linux"


def settings(**sources: str) -> Any:
    return {"prepare": {name: {"uri": uri, "key": f"{name}.asc"} for name, uri in sources.items()}}


@pytest.mark.parametrize("pasted", [DOCKER, f"{DOCKER}/", f"{DOCKER}/debian", f"{DOCKER}/ubuntu/"])
def test_folder_of_a_distribution_is_removed_from_the_source(pasted: str) -> None:
    order = prepare_order(a_lab(**settings(docker=pasted)), "r1", {"docker.asc": "KEY"}, "PEM")
    (source,) = order.docker
    assert (source.uri, source.key, order.nvidia) == (DOCKER, "KEY", ())
    assert (order.registry.ca, order.restart_engine, order.reach) == ("PEM", False, True)


def test_sources_keep_their_order_and_their_keys() -> None:
    sources = [{"uri": f"https://{name}.example/nvidia", "key": f"{name}.asc"} for name in ("m", "n")]
    lab = a_lab(prepare={"nvidia": sources})
    order = prepare_order(lab, "r1", {"n.asc": "KEY of n", "m.asc": "KEY of m"}, None)
    assert [(source.uri, source.key) for source in order.nvidia] == [
        ("https://m.example/nvidia", "KEY of m"),
        ("https://n.example/nvidia", "KEY of n"),
    ]


@pytest.mark.parametrize(
    "uri", ["ftp://m/x", "https://m/x y", "https://m/x\nSigned-By: /tmp/k", "https://user:word@m/x", "m/x", "https://"]
)
def test_source_that_is_not_one_plain_address_is_refused(uri: str) -> None:
    """The address becomes a line in a file of apt."""
    with pytest.raises(ValidationError):
        PackageSource(uri=uri, key="k.asc")


def test_managed_registry_requires_tls() -> None:
    with pytest.raises(ValidationError, match="plain_http"):
        a_lab(registry={"address": "r.lab:5000", "managed": True, "plain_http": True})
    lab = a_lab(registry={"address": "r.lab:5000", "managed": True})
    assert registry_order(lab, "r1", is_local=False).address == "r.lab:5000"


@pytest.mark.parametrize(
    ("address", "push_port", "is_local", "expected"),
    [
        ("r.lab:5000", None, False, "r.lab:5001"),
        ("r.lab:65535", None, False, "r.lab:65534"),
        ("[fd00::1]:5000", 7000, False, "[fd00::1]:7000"),
        ("r.lab:5000", None, True, "127.0.0.1:5001"),
    ],
)
def test_pushes_have_another_port_and_stay_on_the_control_machine_where_the_registry_runs_there(
    address: str, push_port: int | None, is_local: bool, expected: str
) -> None:
    lab = a_lab(registry={"address": address, "managed": True, "push_port": push_port})
    order = registry_order(lab, "r1", is_local=is_local)
    assert (order.push_address, order.push_login) == (expected, "")


@pytest.mark.parametrize("settings", [{"push_port": 5000, "managed": True}, {"push_port": 5001}], ids=str)
def test_a_push_port_is_another_one_of_a_managed_registry(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="push_port"):
        a_lab(registry={"address": "r.lab:5000", **settings})
