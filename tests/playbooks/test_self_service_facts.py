"""Facts of self-service on a node, which are read from its files, whatever these hold."""

import hashlib
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from provisioner.adapters import resources
from tests.playbooks.fake_engine import FakeEngine
from tests.playbooks.node_code import module_util
from tests.playbooks.orders import REFERENCE
from tests.playbooks.self_service_world import Site, facts
from tests.playbooks.test_self_service_publish import lease
from tests.playbooks.test_self_service_removal import a_running_seat

stores, states = module_util("broker.store"), module_util("lease.state")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: FakeEngine) -> Site:
    return Site(tmp_path, monkeypatch, engine)


def test_a_node_without_self_service_has_no_facts_of_it(site: Site) -> None:
    assert facts.self_service_facts(site.state_root) is None
    assert facts.published_images(site.state_root) == []


def test_facts_of_a_node_with_leases(site: Site) -> None:
    site.publish()
    a_running_seat(site, "ml_anna", environment="default", version=site.version())
    lease(site, site.gpus[0]["uuid"])
    assert facts.self_service_facts(site.state_root) == {
        "lab": "ml",
        "config": hashlib.sha256(json.dumps(site.order()["config"], sort_keys=True).encode()).hexdigest(),
        "pool": [gpu["uuid"] for gpu in site.gpus],
        "version": "0.2.0",
        "runs": True,
        "started_by": "systemd",
        "environments": {"default": site.version()},
        "leases": [
            {
                "seat": "ml_anna",
                "person": "anna",
                "uid": 5001,
                "gpus": [site.gpus[0]["uuid"]],
                "state": "active",
                "left_s": 3600,
                "environment": "default",
                "version": site.version(),
            }
        ],
        "waiting": 0,
    }
    assert facts.published_images(site.state_root) == [REFERENCE]


def test_a_seat_that_is_being_set_up_has_the_facts_of_its_order(site: Site) -> None:
    site.publish()
    lease(site)
    wanted = {"name": "ml_anna", "person": "anna", "environment": "default", "version": "0123456789ab"}
    stores.Store(site.state_root).write_order("me-1", {"run": "me-1", "seat": wanted})
    (fact,) = facts.self_service_facts(site.state_root)["leases"]
    assert (fact["person"], fact["environment"], fact["version"]) == ("anna", "default", "0123456789ab")


def test_a_broker_that_does_not_run_is_a_fact(site: Site) -> None:
    site.publish()
    site.pid = None
    assert facts.self_service_facts(site.state_root)["runs"] is False


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"pool": null, "lab": null}', '{"pool": 5}'])
def test_a_damaged_configuration_is_none_of_any_lab(site: Site, text: str) -> None:
    site.publish()
    site.layout.config.write_text(text)
    found = facts.self_service_facts(site.state_root)
    assert (found["lab"], found["pool"], found["runs"]) == ("", [], True)


@pytest.mark.parametrize(
    "damage",
    [
        "",
        "[]",
        '{"leases": []}',
        '{"leases": {"l": 1}, "queue": 5}',
        '{"leases": {"l": {"gpus": null, "left_s": "x"}}}',
    ],
)
def test_damaged_leases_do_not_hide_the_other_facts(site: Site, damage: str) -> None:
    site.publish()
    (site.layout.folder / "leases.json").write_text(damage)
    found: dict[str, Any] = facts.self_service_facts(site.state_root)
    assert (found["lab"], found["waiting"]) == ("ml", 0)


def test_the_image_of_a_version_that_cannot_be_read_is_unknown(site: Site) -> None:
    site.publish()
    (site.layout.environments / "default" / site.version() / "environment.json").write_text("{")
    assert facts.published_images(site.state_root) == ["unknown"]


def test_the_probe_has_the_facts_and_keeps_the_images_of_published_environments(site: Site) -> None:
    site.publish()
    path = resources.playbooks() / "library/provisioner_probe.py"
    spec = importlib.util.spec_from_file_location("provisioner_probe", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = module.node_facts(site.state_root, [])
    assert (found["self_service"]["lab"], found["kept"]) == ("ml", [REFERENCE])
