import pytest

from provisioner.console.differences import mask_own, merge_differences, shorten, split_lines
from provisioner.domain.rollout.plan import Step, files_diff


def a_step(node: str, before: str, after: str) -> Step:
    diff = files_diff({"compose.yaml": before}, {"compose.yaml": after})
    return Step(node=node, seat="lab-student", action="update", why="the image changes", diff=diff)


@pytest.mark.parametrize(
    ("own", "others"),
    [
        ('hostname: "pc1"', 'hostname: "pc2"'),
        ('published: "22001"', 'published: "24017"'),
        ('- "nvidia.com/gpu=GPU-0a1b2c3d-0000-1111-2222-333344445555"', '- "nvidia.com/gpu=GPU-9f8e7d6c-0"'),
        ('host_ip: "10.0.7.11"', 'host_ip: "10.0.7.212"'),
        ('- subnet: "10.201.0.0/29"', '- subnet: "10.201.16.8/29"'),
        ("http://10.0.7.11:24001/lab", "http://10.0.7.9:24003/lab"),
        ("ssh -p 24000 student@pc1", "ssh -p 24002 student@pc2"),
    ],
)
def test_names_addresses_ports_and_uuids_make_no_difference(own: str, others: str) -> None:
    first, second = (
        a_step(node, f"image: old\n{line}\n", f"image: new\n{line}\n") for node, line in (("pc1", own), ("pc2", others))
    )
    assert first.diff != second.diff
    assert mask_own(first) == mask_own(second)
    assert merge_differences([first, second]) == (split_lines(first.diff), 1)


@pytest.mark.parametrize(
    ("one", "another"),
    [
        ("image: new", "image: newer"),
        ("cpus: 15.0", "cpus: 31.0"),
        ('mem_limit: "56g"', 'mem_limit: "120g"'),
        ("torch 2.10.0", "torch 2.11.0"),
        ('hostname: "pc1"', 'hostname: "pc1-old"'),
        ("target: /data/pc1x", "target: /data/pc1y"),
        ('- "nvidia.com/gpu=GPU-0a1b2c3d"', '- "nvidia.com/gpu=all"'),
    ],
)
def test_everything_else_is_a_difference(one: str, another: str) -> None:
    first, second = (a_step("pc1", "image: old\n", f"{line}\n") for line in (one, another))
    assert mask_own(first) != mask_own(second)


LONG = files_diff(
    {"a": "".join(f"{number}\n" for number in range(30)), "gone": "1\n2\n"},
    {"a": "".join(f"{number if number != 20 else 'twenty'}\n" for number in range(30)), "new": "-- not a head\n"},
)


@pytest.mark.parametrize(
    ("most", "expected"),
    [
        (99, list(split_lines(LONG))),
        (
            9,
            [
                "a:",
                "-20",
                "+twenty",
                "gone:",
                "-1",
                "-2",
                "new:",
                "+-- not a head",
                "(each change once, without the lines around it; --diff shows all)",
            ],
        ),
        (
            6,
            [
                "a: 1 added, 1 removed",
                "gone: 2 removed",
                "new: 1 added",
                "(20 lines of differences; --diff shows all)",
            ],
        ),
        (2, ["a: 1 added, 1 removed", "(20 lines of differences; --diff shows all)"]),
    ],
)
def test_a_difference_takes_its_share_of_lines(most: int, expected: list[str]) -> None:
    assert shorten(split_lines(LONG), most) == expected


def test_a_change_that_a_file_has_twice_is_shown_once() -> None:
    before, after = ("".join(f"image: {tag}\n{'kept' + chr(10) * 9}" * 2) for tag in ("old", "new"))
    lines = split_lines(files_diff({"compose.yaml": before}, {"compose.yaml": after}))
    assert shorten(lines, 6)[:3] == ["compose.yaml:", "-image: old", "+image: new"]
