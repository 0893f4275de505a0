import pytest

from provisioner.domain.compatibility.verdict import judge
from provisioner.domain.selection.selection import select
from tests.domain.group import DATA, a_profile, a_tag, facts


def test_a_runtime_tag_says_that_the_devel_one_would_run() -> None:
    (problem,) = judge(a_profile("a100", driver="535.183.01"), facts("2.14.1-cuda13.0-cudnn9-runtime"), DATA).problems

    assert "the -devel tag, whose compatibility package runs on this card and driver" in problem.fix


@pytest.mark.parametrize("card", ["rtx4090", "titanv", "a6000"])
def test_and_not_to_cards_that_it_does_not_run_on(card: str) -> None:
    problems = judge(a_profile(card, driver="535.183.01"), facts("2.14.1-cuda13.0-cudnn9-runtime"), DATA).problems

    assert problems
    assert not any("-devel" in problem.fix for problem in problems)


@pytest.mark.parametrize(
    ("driver", "tags", "chosen"),
    [
        ("535.183.01", ["2.14.1-cuda13.0-cudnn9-devel", "2.14.1-cuda12.6-cudnn9-runtime"], 1),  # without the package
        ("535.183.01", ["2.14.1-cuda13.0-cudnn9-devel", "2.13.0-cuda12.6-cudnn9-runtime"], 0),  # a newer torch
        ("570.172.08", ["2.8.0-cuda12.9-cudnn9-devel", "2.8.0-cuda12.6-cudnn9-devel"], 1),
        ("580.95.05", ["2.14.1-cuda13.2-cudnn9-devel", "2.14.1-cuda13.0-cudnn9-devel"], 1),
        ("595.58.03", ["2.14.1-cuda13.2-cudnn9-devel", "2.14.1-cuda13.0-cudnn9-devel"], 0),  # no need of it
    ],
)
def test_an_image_that_replaces_the_drivers_library_is_the_last_resort(
    driver: str, tags: list[str], chosen: int
) -> None:
    selection = select([a_profile("a100", driver=driver)], [a_tag(text) for text in tags], DATA)

    assert selection.tag == f"pytorch/pytorch:{tags[chosen]}"


def test_where_nobody_checks_a_geforce_still_gets_the_image_that_leaves_its_library_alone() -> None:
    """candle#3358: an RTX 5090 under 580 and an image of CUDA 13.1 end in error 804."""
    node = a_profile("rtx5090", driver="580.126.09", toolkit_mode="cdi")
    tags = [a_tag("2.13.0-cuda13.2-cudnn9-devel"), a_tag("2.13.0-cuda13.0-cudnn9-runtime")]

    assert select([node], tags, DATA).tag == "pytorch/pytorch:2.13.0-cuda13.0-cudnn9-runtime"


def test_an_image_that_names_its_brands_itself_is_taken_at_its_word() -> None:
    env = {"PYTORCH_VERSION": "2.11.0", "CUDA_VERSION": "13.0.1"}
    listed = {"NVIDIA_REQUIRE_CUDA": "cuda>=13.0 brand=nvidia,driver>=560,driver<561"}
    node = a_profile("a100", driver="560.35.03")

    assert judge(node, facts("lab/torch:x", env=env | listed), DATA).ok
    assert not judge(node, facts("lab/torch:x", env=env | {"NVIDIA_REQUIRE_CUDA": "cuda>=9.0"}), DATA).ok
    assert not judge(a_profile("a100", driver="550.54.15"), facts("lab/torch:x", env=env | listed), DATA).ok


def test_its_own_library_compiles_the_images_ptx() -> None:
    env = {
        "PYTORCH_VERSION": "2.9.0a0+50eac811a6",
        "CUDA_VERSION": "13.0.1",
        "TORCH_CUDA_ARCH_LIST": "8.0+PTX",
        "NVIDIA_REQUIRE_CUDA": "cuda>=13.0 brand=nvidia,driver>=535,driver<536",
    }
    image = facts("nvcr.io/nvidia/pytorch:25.09-py3", env=env)

    assert judge(a_profile("h100", driver="535.183.01"), image, DATA).ok
    assert not judge(a_profile("h100", driver="550.54.15"), image, DATA).ok
