"""The problem of a failed build: from the line of the scripts, whatever other words the output has."""

import pytest

from provisioner.adapters.engine.build_failure import build_failed

ENGINE = "The command '/bin/sh -c sh /tmp/install_packages.sh ...' returned a non-zero code: 1"


@pytest.mark.parametrize(
    ("output", "code", "what"),
    [
        ("E: x\n\nprovisioner: apt_package ffmpg\n" + ENGINE, "apt_package", "ffmpg cannot be installed in lab:1"),
        ("provisioner: apt_package a b\n" + ENGINE, "apt_package", "a, b cannot be installed"),
        ("provisioner: apt_driver libcuda1 \n" + ENGINE, "apt_driver", "libcuda1"),
        ("W: 403\nprovisioner: apt_mirror_failed\n" + ENGINE, "apt_mirror_failed", "W: 403"),
        ("provisioner: apt_no_sources\n" + ENGINE, "apt_no_sources", "no package sources"),
        ("Unable to locate package ffmpg\n" + ENGINE, "build_failed", "Unable to locate package ffmpg"),
        ("provisioner: something_else x\n" + ENGINE, "build_failed", "something_else"),
        ("echo provisioner: apt_package x\n" + ENGINE, "build_failed", ENGINE),
        ("", "build_failed", "lab:1"),
        (
            "provisioner: course: a 1 needs b<2\nprovisioner: course: c 1 needs d\n" + ENGINE,
            "course_not_installed",
            "do not work in lab:1: a 1 needs b<2\nc 1 needs d\n",
        ),
        # A package's script may print such a line; what ended the build comes last.
        ("provisioner: apt_no_sources\nprovisioner: apt_package x\n" + ENGINE, "apt_package", "x cannot"),
    ],
)
def test_a_failure_is_known_by_its_mark(output: str, code: str, what: str) -> None:
    problem = build_failed("lab:1", output)
    assert problem.code == code
    assert what in problem.what


def test_the_last_lines_before_the_mark_say_why() -> None:
    builder = "Step 3/9 : COPY x /\n ---> Using cache\n---> 78583b819856\n"
    what = build_failed("lab:1", f"{builder}first\n\x1b[91mlast\x1b[0m\n\nprovisioner: apt_package x\n{ENGINE}").what
    assert what.endswith("the last lines:\nfirst\nlast")
