"""What is added to which base for which environment."""

import pytest

from provisioner.adapters.engine.base_image import BaseFacts
from provisioner.adapters.engine.parts import FONT, Parts, check_settings, choose_parts
from provisioner.domain.lab.environments import ImageSettings
from provisioner.domain.values.problem import ProblemError

PYTHON = {"python": "/usr/bin/python3", "version": "3.12.3", "machine": "x86_64", "glibc": "2.39"}
BARE = BaseFacts(**PYTHON, jupyter=False, sshd=False, apt=True, missing_tools=("git", FONT))
FULL = BaseFacts(**PYTHON, jupyter=True, sshd=True, apt=True)
WITHOUT_APT = FULL.model_copy(update={"apt": False, "missing_tools": ("git", FONT)})
PLAIN = ImageSettings(tools=False)


def parts(base: BaseFacts, settings: ImageSettings, **env: str) -> Parts:
    return choose_parts("mirror.lab/base:1", settings, base, env)


@pytest.mark.parametrize(
    ("base", "settings", "system"),
    [
        (BARE, ImageSettings(), ("openssh-server", "git", FONT)),
        (BARE, PLAIN, ("openssh-server",)),
        (BARE.model_copy(update={"sshd": True, "missing_tools": ()}), ImageSettings(), ()),
        (FULL, ImageSettings(), ()),
        (WITHOUT_APT, ImageSettings(), ()),
    ],
)
def test_only_what_is_missing_is_installed(base: BaseFacts, settings: ImageSettings, system: tuple[str, ...]) -> None:
    assert parts(base, settings).system == system


@pytest.mark.parametrize(
    ("base", "settings", "nothing"),
    [
        (FULL, ImageSettings(), True),
        (WITHOUT_APT, ImageSettings(), True),
        (FULL, ImageSettings(apt=("ffmpeg",)), False),
        (FULL, ImageSettings(pip="course.txt"), False),
        (FULL.model_copy(update={"missing_tools": ("git",)}), ImageSettings(), False),
        (FULL.model_copy(update={"missing_tools": ("git",)}), PLAIN, True),
        (FULL.model_copy(update={"jupyter": False}), PLAIN, False),
    ],
)
def test_a_base_with_everything_is_not_rebuilt(base: BaseFacts, settings: ImageSettings, nothing: bool) -> None:
    assert parts(base, settings).is_nothing is nothing


def test_packages_stand_in_one_order_and_once() -> None:
    assert parts(BARE, ImageSettings(apt=("sox", "ffmpeg", "sox"))).apt == ("ffmpeg", "sox")


def test_lang_of_the_base_stays() -> None:
    assert parts(BARE, ImageSettings()).lang
    assert not parts(BARE, ImageSettings(), LANG="en_US.UTF-8").lang
    assert not parts(BARE, PLAIN).lang


@pytest.mark.parametrize(
    ("change", "font"),
    [({}, True), ({"missing_tools": ()}, True), ({"apt": False, "sshd": True}, False), ({"jupyter": True}, False)],
)
def test_matplotlib_is_set_to_the_font_where_there_is_one(change: dict[str, object], font: bool) -> None:
    base = BARE.model_copy(update=change)
    assert parts(base, ImageSettings()).font is font
    assert not parts(base, PLAIN).font


def test_programs_of_the_course_come_after_those_of_the_environment() -> None:
    assert parts(BARE, ImageSettings(pip="x.txt")).programs == (
        "/opt/provisioner/env/bin",
        "/opt/provisioner/course/bin",
    )
    assert parts(FULL, ImageSettings(pip="x.txt")).programs == ("/opt/provisioner/course/bin",)


def test_packages_for_a_base_without_apt_get_are_refused_by_name() -> None:
    with pytest.raises(ProblemError, match="no apt-get to install ffmpeg, sox with"):
        parts(WITHOUT_APT, ImageSettings(apt=("sox", "ffmpeg")))


@pytest.mark.parametrize("settings", [{"apt": ("ffmpeg",)}, {"pip": "course.txt"}])
def test_packages_of_an_environment_that_is_not_built_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ProblemError, match="complete_with_packages") as refused:
        check_settings("nlp", ImageSettings.model_validate({"complete": True, **settings}))
    assert refused.value.ending == "usage"
    check_settings("nlp", ImageSettings.model_validate(settings))
