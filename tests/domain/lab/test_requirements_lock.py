import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.domain.lab.requirements_lock import (
    Entry,
    RequirementsLock,
    Target,
    format_lock,
    hash_inputs,
    parse_lock,
    pinned_packages,
    valid_packages,
)

NAME = "lab/environments/nlp/requirements.lock"
TARGET = Target(python="3.12", platform="x86_64-manylinux_2_39", pins={"torch": "2.8.0"})
HASH = "sha256:" + "0" * 64
LOCK = RequirementsLock(
    TARGET,
    "sha256:" + "1" * 64,
    ("sha256:" + "a" * 64,),
    (
        Entry("numpy", "2.1.0", (HASH, HASH), ("    # via", "    #   -r requirements.txt")),
        Entry("tqdm", "4.0", (HASH,)),
    ),
)
TEXT = format_lock(LOCK, "environments/nlp/requirements.txt")
NAMES = st.from_regex(r"[a-z][a-z0-9]{0,5}(-[a-z0-9]{1,3})?", fullmatch=True)


def whats(text: str) -> list[str]:
    found = parse_lock(NAME, text)
    assert not isinstance(found, RequirementsLock)
    assert {problem.code for problem in found} == {"requirements_lock_damaged"}
    return [problem.what for problem in found]


@given(st.dictionaries(NAMES, st.sampled_from(["1.0", "2.0.post1", "1!3.0+local"]), max_size=5), st.integers(1, 3))
def test_what_is_written_is_read_again(packages: dict[str, str], hashes: int) -> None:
    entries = tuple(Entry(name, packages[name], (HASH,) * hashes, ("    # via x",)) for name in sorted(packages))
    lock = LOCK._replace(entries=entries, target=TARGET.model_copy(update={"pins": {}}))
    assert parse_lock(NAME, format_lock(lock, "x.txt")) == lock


def test_a_comment_changes_nothing_that_is_installed() -> None:
    found = parse_lock(NAME, TEXT.replace("    # via\n", "    # by\n") + "\n# the end\n")
    assert isinstance(found, RequirementsLock)
    assert found.requirements == LOCK.requirements
    assert "via" not in found.requirements


def test_line_ends_of_another_system_change_nothing() -> None:
    assert parse_lock(NAME, TEXT.replace("\n", "\r\n")) == parse_lock(NAME, TEXT) == LOCK


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (f"tqdm==4.0 \\\n    --hash={HASH}\n", "tqdm==4.0\n", ":12: tqdm has no hash"),
        (f"tqdm==4.0 \\\n    --hash={HASH}\n", "tqdm==4.0 \\\n", ":12: tqdm has no hash"),
        (f" \\\n    --hash={HASH}\n    # via", " \\\n    # via", ":7: numpy has no hash"),
        ("sha256:00", "md5:00", ":7: numpy has no hash"),
        ("tqdm==4.0", "-e git+https://git.campus/tqdm", ":12: unexpected"),
        ("tqdm==4.0", "tqdm @ https://files.campus/tqdm.whl", ":12: unexpected"),
        ("tqdm==4.0", "--index-url https://pypi.campus", ":12: unexpected"),
        ("tqdm==4.0", "tqdm>=4.0", ":12: unexpected"),
        ("tqdm==4.0", "numpy==2.1.0", "the package numpy stands there twice"),
        ("tqdm==4.0", "torch==2.10.0", "torch is of the base image"),
        ("tqdm==4.0", "Tqdm==4.0", ":12: Tqdm==4.0 is not the name"),
        ("tqdm==4.0", "tqdm==four", ":12: tqdm==four is not the name"),
        ("tqdm==4.0", "<<<<<<< HEAD\ntqdm==4.0", ":12: unexpected: '<<<<<<< HEAD'"),
        ("# python: 3.12\n", "", "one line `# python: …`"),
        ("# inputs: ", "# inputs: x\n# inputs: ", "one line `# inputs: …`"),
    ],
)
def test_a_damaged_file_is_refused_with_its_line(old: str, new: str, expected: str) -> None:
    assert TEXT.count(old) >= 1
    assert any(expected in what for what in whats(TEXT.replace(old, new, 1)))


@given(st.text(string.printable, max_size=80))
def test_any_text_is_read_or_refused(text: str) -> None:
    assert parse_lock(NAME, text) is not None


@given(st.lists(NAMES, max_size=5), st.lists(NAMES, max_size=3))
def test_order_and_repetition_are_no_inputs(names: list[str], limits: list[str]) -> None:
    shuffled = [*reversed(names), *names]
    assert hash_inputs(names, limits, {}, TARGET) == hash_inputs(shuffled, limits * 2, {}, TARGET)


def test_each_input_counts() -> None:
    other = TARGET.model_copy(update={"pins": {"torch": "2.9.0"}})
    hashes = {
        hash_inputs(["a"], [], {}, TARGET),
        hash_inputs(["b"], [], {}, TARGET),
        hash_inputs(["a"], ["b"], {}, TARGET),
        hash_inputs(["a"], [], {"a.whl": "0"}, TARGET),
        hash_inputs(["a"], [], {}, other),
        hash_inputs(["a"], [], {}, TARGET.model_copy(update={"python": "3.11"})),
        hash_inputs(["a"], [], {}, TARGET.model_copy(update={"platform": "aarch64-manylinux_2_39"})),
    }
    assert len(hashes) == 7


def test_what_a_course_never_replaces() -> None:
    packages = {
        **dict.fromkeys(
            ["torch", "torchvision", "torchaudio", "triton", "pytorch_triton", "NVIDIA_cublas.cu12"], "1.0"
        ),
        **dict.fromkeys(["cuda-bindings", "nvidia-ml-py", "numpy", "torchmetrics", "barracuda-x"], "1.0"),
        "nvidia-broken": "not a version",
    }
    assert list(pinned_packages(packages)) == [
        "cuda-bindings",
        "nvidia-cublas-cu12",
        "pytorch-triton",
        "torch",
        "torchaudio",
        "torchvision",
        "triton",
    ]


@given(st.dictionaries(st.text(max_size=12), st.text(max_size=8), max_size=4))
def test_what_an_image_calls_a_package_becomes_a_safe_name_or_nothing(packages: dict[str, str]) -> None:
    for name, version in valid_packages({**packages, **{f"nvidia-{name}": "1.0\n" for name in packages}}).items():
        assert re.fullmatch(r"[a-z0-9]+(-+[a-z0-9]+)*", name)
        assert re.fullmatch(r"[a-z0-9.!+-]+", version)


def test_names_that_would_be_paths_or_lines_are_dropped() -> None:
    packages = {
        "nvidia-../../x": "1.0",
        "torch": "2.8.0\n",
        "cuda-x\n--index-url http://evil": "1.0",
        "triton": "1/../2",
    }
    assert pinned_packages(packages) == {"torch": "2.8.0"}
