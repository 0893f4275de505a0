"""A compose file with GPU reservations starts on the bed, and its container sees exactly the reserved GPUs."""

import re

import pytest

from tests.lab.bed import Lab
from tests.lab.gpus import profile_text
from tests.lab.host import BedError
from tests.lab.node import Node
from tests.lab.tags import DemoTag, push_demo_tags

pytestmark = [pytest.mark.lab, pytest.mark.long("bed")]

COMPOSE = """\
services:
  work:
    image: {image}
    command: ["nvidia-smi", "-L"]
    ulimits: {{memlock: -1}}
    network_mode: none
    deploy:
      resources:
        reservations:
          devices:
            - driver: nvidia
              device_ids: [{uuid}]
              capabilities: [gpu]
"""
RUN = ("docker", "compose", "-p", "selftest", "-f", "-", "run", "--rm", "work")
UUID = re.compile(r"GPU-[0-9a-f-]{36}")
KERNEL = "import torch; x = torch.tensor([[2.0]]).to('cuda'); print((x @ x).tolist())"


@pytest.fixture(scope="module")
def images(lab3: Lab) -> dict[str, str]:
    """Images on the lab's registry; `old` runs on all three GPUs, `new` does not."""
    wanted = {
        "new": DemoTag("2.14.1", "13.0.3", ""),
        "old": DemoTag("2.8.0", "12.8.1", ""),
        "devel": DemoTag("2.8.0", "12.8.1", "", "devel"),
    }
    push_demo_tags(lab3.registry)
    return {name: f"{lab3.registry.address}/{demo.name}" for name, demo in wanted.items()}


def test_reservation_by_uuid_on_a_node(lab3: Lab, images: dict[str, str]) -> None:
    node = lab3.node("node1")
    first, second = UUID.findall(node.exec("nvidia-smi", "-L"))
    assert UUID.findall(node.exec(*RUN, stdin=COMPOSE.format(image=images["old"], uuid=second))) == [second]
    assert first != second


def gpus_of(node: Node, image: str, *options: str) -> list[str]:
    return UUID.findall(node.exec("docker", "run", "--rm", "--network", "none", *options, image, "nvidia-smi", "-L"))


def test_other_ways_to_ask_for_gpus(lab3: Lab, images: dict[str, str]) -> None:
    node = lab3.node("node1")
    assert len(gpus_of(node, images["old"], "--gpus", "all")) == 2
    assert len(gpus_of(node, images["old"], "--gpus", "1")) == 1
    assert len(gpus_of(node, images["old"], "--runtime", "nvidia")) == 2
    with pytest.raises(BedError, match="unknown device"):
        gpus_of(node, images["old"], "--gpus", "device=7")


def test_cdi_devices_by_uuid_and_all_of_them(lab3: Lab, images: dict[str, str]) -> None:
    """With CDI the requirements of the image are not checked."""
    node = lab3.node("node2")
    node.set_profile("cdi = 1\n" + profile_text("lost").replace("fail = 15\n", "").replace("570.172.08", "535.183.01"))
    first, second = UUID.findall(node.exec("nvidia-smi", "-L"))
    try:
        assert gpus_of(node, images["devel"], "--device", f"nvidia.com/gpu={second}") == [second]
        assert gpus_of(node, images["devel"], "--device", "nvidia.com/gpu=all") == [first, second]
    finally:
        node.set_profile(profile_text("rtx4090-570"))


def test_torch_refuses_where_the_real_one_would(lab3: Lab, images: dict[str, str]) -> None:
    def compute(node: str, image: str) -> str:
        command = (
            "docker",
            "run",
            "--rm",
            "--network",
            "none",
            "--gpus",
            "all",
            images[image],
            "python3",
            "-c",
            KERNEL,
        )
        return lab3.node(node).exec(*command)

    assert compute("node1", "new") == compute("node3", "old") == "[[4.0]]"
    with pytest.raises(BedError, match="driver on your system is too old"):
        compute("node2", "new")


def test_requirements_of_a_devel_image(lab3: Lab, images: dict[str, str]) -> None:
    """CUDA 12.8 on a 535 driver: allowed for a Tesla, by forward compatibility, not for a GeForce."""
    assert gpus_of(lab3.node("node3"), images["devel"], "--gpus", "all")
    node = lab3.node("node2")
    node.set_profile(profile_text("gtx1080ti-535"))
    try:
        with pytest.raises(BedError, match=r"unsatisfied condition: cuda>=12\.8"):
            gpus_of(node, images["devel"], "--gpus", "all")
    finally:
        node.set_profile(profile_text("rtx4090-570"))
