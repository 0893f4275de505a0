"""Why a build failed: from the line that the scripts of a build print themselves, never from the words of a tool."""

import re
from collections.abc import Callable

from provisioner.domain.values.problem import Problem

# install_packages.sh and course_env.py end with such lines: a code, and what it is about.
_MARK = re.compile(r"^provisioner: (?P<code>[a-z_]+):?(?P<words>(?: .*)?)$", re.MULTILINE)
# The colors of apt, and the builder's own lines, which do not say why.
_NOISE = re.compile(r"\x1b\[[0-9;]*m|^(?:Step \d+/\d+ :| --->|--->).*\n?", re.MULTILINE)


def build_failed(reference: str, output: str) -> Problem:
    """Return the problem of a failed build. `output`: its last lines, with the engine's own message."""
    text = _NOISE.sub("", output)
    marks = list(_MARK.finditer(text))
    explain = _EXPLAINED.get(marks[-1]["code"]) if marks else None
    if explain is None:
        return _unknown(reference, output)
    words = [mark["words"].strip() for mark in marks if mark["code"] == marks[-1]["code"]]
    return explain(reference, "\n".join(words), text[: marks[0].start()].strip())


def packages_failed(reference: str, names: str, output: str) -> Problem:
    """Return the problem of Debian packages that cannot be installed. `output`: the lines that say why."""
    return Problem(
        "apt_package",
        f"{', '.join(names.split())} cannot be installed in {reference}; the last lines:\n{output}",
        "the sources of the base have no such package, or it does not go with what the base has",
        (
            "correct the name in `apt` of lab.yml: packages.ubuntu.com and packages.debian.org list them by release; "
            "if it is not in your list, it is one of image.tools or sshd, so look at image.apt_mirror"
        ),
    )


def _driver(reference: str, names: str, _: str) -> Problem:
    return Problem(
        "apt_driver",
        f"a package of `apt` would bring parts of an NVIDIA driver into {reference}: {', '.join(names.split())}",
        "the driver of each node comes into its seats; another one in the image hides it, and then no GPU works",
        "remove the package that depends on these from `apt`; CUDA itself is in the base, and nvitop is in every image",
    )


def _mirror(reference: str, _: str, output: str) -> Problem:
    return Problem(
        "apt_mirror_failed",
        f"the package sources for {reference} did not answer, or not completely; the last lines:\n{output}",
        "packages are installed from the distribution's sources, or from image.apt_mirror instead",
        "set image.apt_mirror to a mirror that this machine reaches, or try again later if it is being updated",
    )


def _sources(reference: str, _: str, output: str) -> Problem:
    return Problem(
        "apt_no_sources",
        f"the base of {reference} has no package sources of Debian or Ubuntu; the last lines:\n{output}",
        "packages are installed from sources whose URL ends with /ubuntu, /ubuntu-ports, /debian or /debian-security",
        "choose another base by image.torch or image.flavour, or remove `apt` and set image.tools: false",
    )


def _course(reference: str, reasons: str, output: str) -> Problem:
    return Problem(
        "course_not_installed",
        f"the course's packages do not work in {reference}: {reasons}\nthe last lines:\n{output}",
        "the packages of `pip` are installed beside torch and Jupyter of the image, which must stay as they are",
        "change the versions that the requirements file of this environment asks for, then run `provision lock` again",
    )


def _unknown(reference: str, output: str) -> Problem:
    return Problem(
        "build_failed",
        f"Docker could not build {reference}; its last lines:\n{output}",
        "a seat needs Jupyter and sshd beside the base's torch",
        (
            "if a package source cannot be reached, set image.apt_mirror to one that can; "
            "or push a complete image to the mirror and set image.complete: true"
        ),
    )


_EXPLAINED: dict[str, Callable[[str, str, str], Problem]] = {
    "apt_package": packages_failed,
    "apt_driver": _driver,
    "apt_mirror_failed": _mirror,
    "apt_no_sources": _sources,
    "course": _course,
}
