"""The order to publish self-service as a node gets it: see the shared keys of its module."""

import json

from provisioner.adapters.ansible.batch import dump_publication
from provisioner.domain.rollout.publish import PublicationOrder
from provisioner.domain.self_service.config import Published, build_published
from provisioner.domain.self_service.publication import SELF_SERVICE_NAME
from tests.builders import a_lab, publication_source
from tests.domain.seats import DOCUMENTS
from tests.playbooks.node_code import module_util
from tests.workflow.fake_fleet import a_claim

KEYS = {"run", "state_root", "claim", "act", "version", "socket", "config", "documents", "when_busy"}


def test_an_order_to_publish_has_the_configuration_and_the_documents() -> None:
    lab = a_lab(self_service={"unix_group": "students"})
    found = build_published(publication_source(lab), DOCUMENTS)
    assert isinstance(found, Published)
    order = PublicationOrder(
        run="r1",
        claim=a_claim(),
        act="publish",
        version="0.2",
        config=found.config,
        documents=dict(found.documents),
    )
    sent = json.loads(dump_publication({SELF_SERVICE_NAME: order}))
    assert sent.keys() == KEYS
    assert (sent["socket"], sent["state_root"]) == ("/run/provisioner/broker.sock", "/var/lib/provisioner")
    config = module_util("broker.config").parse_config(sent["config"])
    assert sent["documents"].keys() == config.environments.keys()
    assert all(document["files"] for document in sent["documents"].values())


def test_an_order_to_remove_self_service_has_nothing_to_publish() -> None:
    order = PublicationOrder(run="r1", act="remove", version="0.2")
    sent = json.loads(dump_publication({SELF_SERVICE_NAME: order}))
    assert (sent["act"], sent["config"], sent["documents"]) == ("remove", None, {})
