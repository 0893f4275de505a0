import string

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.requirements import Requirement

from provisioner.domain.lab.requirements import normal_form, parse_requirements

FILE = "environments/nlp/requirements.txt"


def texts(text: str) -> list[tuple[int, str]]:
    parsed = parse_requirements(FILE, text)
    assert not parsed.problems
    return [(each.line, each.text) for each in parsed.requirements]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("# only a comment\n\n  \n", []),
        ("numpy", [(1, "numpy")]),
        ("\r\nNumPy >= 1.26, < 3  # as in the book\r\n", [(2, "numpy<3,>=1.26")]),
        ("Flask_Login[Extra_B, a] == 1.0", [(1, "flask-login[a,extra-b]==1.0")]),
        ("numpy \\\n  >= 1.26\npandas", [(1, "numpy>=1.26"), (3, "pandas")]),
        ("tomli ; python_version<'3.11'", [(1, 'tomli ; python_version < "3.11"')]),
        ("a==1#not-a-comment", None),
    ],
)
def test_lines_in_their_normal_form(text: str, expected: list[tuple[int, str]] | None) -> None:
    if expected is None:
        assert parse_requirements(FILE, text).problems
    else:
        assert texts(text) == expected


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("-i https://user:secret@pypi.campus/simple", "requirements_index"),
        ("--index-url=https://user:secret@pypi.campus/simple", "requirements_index"),
        ("--extra-index-url https://user:secret@pypi.campus/simple", "requirements_index"),
        ("--trusted-host pypi.campus", "requirements_index"),
        ("-f ./wheels", "requirements_index"),
        ("-e .", "requirements_place"),
        ("-e git+https://user:secret@git.campus/x.git#egg=x", "requirements_place"),
        ("git+https://user:secret@git.campus/x.git", "requirements_place"),
        ("x @ https://user:secret@files.campus/x-1.0-py3-none-any.whl", "requirements_place"),
        ("numpy @ file:///croot/numpy_and_base_1725470312994/work", "requirements_place"),
        ("./x-1.0-py3-none-any.whl", "requirements_place"),
        ("x-1.0-py3-none-any.whl", "requirements_place"),
        ("C:\\Users\\me\\x-1.0.tar.gz", "requirements_place"),
        ("..", "bad_requirement"),
        ("numpy==1.0 --hash=sha256:00", "requirements_option"),
        ("numpy --config-settings=x=y", "requirements_option"),
        ("--no-binary :all:", "requirements_option"),
        ("--pre", "requirements_option"),
        ("-r", "requirements_option"),
        ("numpy=1.0", "bad_requirement"),
        ("numpy=1.26.4=py312_0", "bad_requirement"),
        ("numpy 1.0", "bad_requirement"),
        ("pip install numpy", "bad_requirement"),
        ("<<<<<<< HEAD", "bad_requirement"),
        ("import os", "bad_requirement"),
    ],
)
def test_mistakes_with_their_line_and_without_a_password(line: str, code: str) -> None:
    parsed = parse_requirements(FILE, f"# a\nnumpy\n{line}\npandas\n")
    (problem,) = parsed.problems
    assert problem.code == code
    assert problem.what.startswith(f"{FILE}:3: ")
    assert "secret" not in str(problem)
    assert [each.package for each in parsed.requirements] == ["numpy", "pandas"]


def test_files_that_lines_name() -> None:
    parsed = parse_requirements(FILE, "-r common.txt\n--requirement=more.txt\n-c limits.txt\n-rclose.txt\n")
    assert [(each.path, each.is_constraint) for each in parsed.includes] == [
        ("common.txt", False),
        ("more.txt", False),
        ("limits.txt", True),
        ("close.txt", False),
    ]


NAMES = st.from_regex(r"[A-Za-z][A-Za-z0-9]{0,6}([-_.][A-Za-z0-9]{1,4})?", fullmatch=True)
VERSIONS = st.lists(st.sampled_from([">=1.0", "<3", "!=2.5", "==2.*", "~=1.4"]), max_size=3).map(", ".join)
EXTRAS = st.lists(NAMES, max_size=2).map(lambda names: f"[{','.join(names)}]" if names else "")
LINES = st.builds("{}{} {}".format, NAMES, EXTRAS, VERSIONS)


@given(LINES)
def test_the_normal_form_of_a_normal_form_is_itself(line: str) -> None:
    once = normal_form(Requirement(line))
    assert normal_form(Requirement(once)) == once
    assert texts(once) == [(1, once)]


@given(st.lists(LINES, max_size=6), st.sampled_from(["\n", "\r\n", "\r"]), st.data())
def test_comments_and_blank_lines_change_nothing(lines: list[str], end: str, data: st.DataObject) -> None:
    noise = st.sampled_from(["", "   ", "# a comment -r x", "\t# another"])
    noisy = [part for line in lines for part in (data.draw(noise), f"  {line}\t # why")]
    assert [text for _, text in texts(end.join(noisy))] == [text for _, text in texts("\n".join(lines))]


@given(st.text(string.printable, max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    parse_requirements(FILE, text)
