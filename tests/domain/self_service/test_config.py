"""The configuration of a node: the broker there reads what the control machine writes."""

import json
from typing import Any

import pytest

from provisioner.domain.self_service.config import Published, SelfServiceConfig, build_published
from provisioner.domain.values.problem import Problem
from tests.builders import a_lab, a_locked_image, a_node, a_uuid, publication_source
from tests.domain.seats import DOCUMENTS
from tests.playbooks.node_code import module_util

node_config = module_util("broker.config")
fill = module_util("base.fill")
POOL = (a_uuid("n1/0"), a_uuid("n1/1"))
GROUPS = {
    "zoo": {"unix": "zoo", "gpus": 2, "hours": 48, "idle_hours": 4, "disk": "100g"},
    "student": {"memory": "16g", "cpus": 2.5, "grace_minutes": 5},
    "ant": {"unix": "ant", "gpus": 0},
}


def published(**over: Any) -> Published:
    lab = a_lab(**({"self_service": {"unix_group": "lab-students"}, "groups": GROUPS} | over))
    found = build_published(publication_source(lab, pool=POOL, ca="PEM"), DOCUMENTS)
    assert isinstance(found, Published)
    return found


def as_read(found: Published) -> Any:
    return node_config.parse_config(json.loads(found.config.model_dump_json()))


def test_broker_reads_the_configuration() -> None:
    config = as_read(published())
    assert (config.lab, config.node, config.unix_group, config.show_names) == ("demo", "n1", "lab-students", True)
    assert (config.pool, config.ports) == (POOL, (24000, 24999))
    assert config.binds == {"ssh": "198.18.0.11", "jupyter": "127.0.0.1"}
    assert config.subnets == ("10.213.0.0/16", "172.29.0.0/16", "192.168.192.0/18")
    assert (config.homes, config.term_ends) == ("/srv/provisioner/homes", "")
    environment = config.environments["default"]
    assert (environment.torch, environment.start_interval) == ("2.10.0", True)
    assert environment.image["reference"] == a_locked_image().lab
    assert environment.registry == {"address": "registry.lab:5201", "ca": "PEM"}
    assert environment.deadlines == {"pull": 7200, "healthy": 180, "min_healthy": 0}


def test_broker_reads_the_ceilings_of_groups_in_the_order_of_lab_yml() -> None:
    """The first group with a unix group of the account counts, and a file may have sorted names."""
    found = published()
    sorted_file = json.dumps(found.config.model_dump(mode="json"), sort_keys=True)
    zoo, student, ant = node_config.parse_config(json.loads(sorted_file)).groups
    assert (zoo.name, zoo.unix, zoo.gpus, zoo.hours, zoo.disk) == ("zoo", "zoo", 2, 48, 100 << 30)
    assert tuple(zoo.terms) == (48 * 3600, 4 * 3600, 600)
    assert (student.name, student.gpus, tuple(student.terms)) == ("student", len(POOL), (24 * 3600, 0, 300))
    assert (student.limits["memory"], student.limits["cpus"], student.limits["shm"]) == ("16g", 2.5, "8g")
    assert (ant.name, ant.gpus, ant.environments) == ("ant", 0, ("default",))


def test_a_lab_without_groups_has_the_one_of_students() -> None:
    (student,) = as_read(published(groups={})).groups
    assert (student.name, student.unix, student.gpus, student.hours) == ("student", None, len(POOL), 24)


def test_term_of_the_lab_is_the_one_of_self_service() -> None:
    people = {"roster": "roster.csv", "term_ends": "2027-01-31"}
    assert as_read(published(people=people)).term_ends == "2027-01-31"


def test_version_is_that_of_the_document_and_a_node_can_fill_it(tmp_path: Any) -> None:
    found = published()
    environment = as_read(found).environments["default"]
    path = tmp_path / "self_service/environments/default" / environment.version / "document.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(found.documents["default"].model_dump(mode="json")))
    document = node_config.ConfigFile(str(tmp_path)).document(environment)
    assert document["files"].keys() >= {"compose.yaml", "sshd_config", "authorized_keys"}


def test_documents_do_not_depend_on_the_node() -> None:
    lab = a_lab(self_service={"unix_group": "lab-students"})
    nodes = [a_node("n1"), a_node("n2", addresses=("198.18.0.12",))]
    found = [build_published(publication_source(lab, node), DOCUMENTS) for node in nodes]
    first, second = [one for one in found if isinstance(one, Published)]
    assert first.documents == second.documents
    assert first.config.versions == second.config.versions
    assert first.config.digest != second.config.digest


def test_digest_is_the_same_once_it_was_written_and_read() -> None:
    config = published().config
    again = SelfServiceConfig.model_validate_json(config.model_dump_json())
    assert (again, again.digest) == (config, config.digest)


def test_a_node_without_an_address_has_a_reason() -> None:
    lab = a_lab(self_service={"unix_group": "lab-students"})
    found = build_published(publication_source(lab, a_node(addresses=()), POOL), DOCUMENTS)
    assert isinstance(found, Problem)
    assert found.code == "no_lan_address"


@pytest.mark.parametrize(
    "change", [{"groups": {}}, {"seat": {"homes": "/home/lab"}}, {"services": {"ssh": {"bind": "loopback"}}}]
)
def test_every_setting_changes_the_digest(change: dict[str, Any]) -> None:
    assert published(**change).config.digest != published().config.digest
