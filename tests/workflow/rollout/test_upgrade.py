from provisioner.domain.selection.selection import select
from provisioner.domain.values.image import TaggedImage
from provisioner.domain.values.node import profile
from provisioner.domain.values.problem import Problem
from provisioner.workflow.rollout.upgrade import unserved_reasons
from tests.builders import a_gpu, a_node
from tests.workflow.rollout.test_plan import DATA

OFF = Problem("unreachable", "no answer", "it is off", "switch it on")


def test_each_unserved_node_has_its_own_reason() -> None:
    volta = a_node(
        "n2",
        gpus=(a_gpu("n2", 0, "7.0", name="Tesla V100-SXM2-16GB", brand="tesla"),),
        driver="580.95.05",
        kernel_module="proprietary",
    )
    nodes = {"n1": a_node("n1", driver="580.95.05"), "n2": volta}
    tags = [TaggedImage(reference="m/pytorch/pytorch:2.14.1-cuda13.0-cudnn9-runtime")]
    selection = select([profile(facts) for facts in nodes.values()], tags, DATA)
    probed = nodes | {"n3": OFF}
    found = unserved_reasons({"default": selection}, {"default": list(probed)}, probed)["default"]
    assert found["n1"] is None
    assert found["n3"] == OFF
    refused = found["n2"]
    assert refused is not None
    assert refused.code == "no_kernel"
