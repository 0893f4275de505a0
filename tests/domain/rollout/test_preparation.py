"""What each node is told of the lab's wish."""

from typing import Any

import pytest
from pydantic import ValidationError

from provisioner.domain.lab.lab import PackageSource
from provisioner.domain.rollout.preparation import prepare_order, registry_order
from tests.builders import a_lab

DOCKER = "https://mirror.example/docker-ce/linux"


def a_wish(**sources: str) -> Any:
    return {"prepare": {name: {"uri": uri, "key": f"{name}.asc"} for name, uri in sources.items()}}


@pytest.mark.parametrize("pasted", [DOCKER, f"{DOCKER}/", f"{DOCKER}/debian", f"{DOCKER}/ubuntu/"])
def test_the_folder_of_a_distribution_is_the_nodes_to_choose(pasted: str) -> None:
    order = prepare_order(a_lab(**a_wish(docker=pasted)), "r1", {"docker": "KEY"}, "PEM")
    assert order.docker is not None
    assert (order.docker.uri, order.docker.key, order.nvidia) == (DOCKER, "KEY", None)
    assert (order.registry.ca, order.restart_engine, order.reach) == ("PEM", False, True)


@pytest.mark.parametrize(
    "uri", ["ftp://m/x", "https://m/x y", "https://m/x\nSigned-By: /tmp/k", "https://user:word@m/x", "m/x", "https://"]
)
def test_a_source_is_one_plain_address(uri: str) -> None:
    """It becomes a line in a file that apt obeys."""
    with pytest.raises(ValidationError):
        PackageSource(uri=uri, key="k.asc")


def test_a_registry_that_is_set_up_speaks_tls() -> None:
    with pytest.raises(ValidationError, match="plain_http"):
        a_lab(registry={"address": "r.lab:5000", "managed": True, "plain_http": True})
    lab = a_lab(registry={"address": "r.lab:5000", "managed": True})
    assert registry_order(lab, "r1").address == "r.lab:5000"
