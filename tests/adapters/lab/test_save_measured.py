"""Rows that are written into a lab's compatibility.yaml, which otherwise stays as its author wrote it."""

from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from provisioner.adapters.lab.compatibility_data import OVERLAY, load_for_lab, load_with_overlay, save_measured
from provisioner.domain.compatibility.overlay import OwnMeasuredImage
from provisioner.domain.values.problem import ProblemError
from provisioner.domain.values.version import CudaVersion
from tests.builders import a_digest


def a_row(name: str = "new", torch: str = "2.8.0+cu128", source: str = "a test: \"x\" 'y' # z") -> OwnMeasuredImage:
    return OwnMeasuredImage(
        image=f"mirror.lab:5200/ours/{name}:7",
        digest=a_digest(name),
        platform="linux/amd64",
        torch=torch,
        cuda=CudaVersion("12.8"),
        targets=("sm_80", "sm_90a", "compute_90"),
        source=source,
    )


OLD = (
    f"{{image: m.lab/ours/old:6, digest: '{a_digest('old')}', platform: linux/amd64, torch: 2.7.0,"
    " cuda: '12.6', targets: [sm_80], source: by hand}"
)
BLOCK = f"""\
measured:  # ours
  # the old one
  - {OLD}  # of spring

  - image: m.lab/ours/mid:6  # of summer
    digest: {a_digest("mid")}
    platform: linux/amd64
    torch: 2.7.1
    cuda: "12.6"
    source: by hand
    targets:
      - sm_80  # the cluster
# the end of it
"""
PRODUCTS = 'products:  # cards\n  - {name: RTX 5090 SUPER, capability: "12.0", source: our node g7}\n'
FILES = {
    "none": None,
    "empty": "",
    "comments": "# nothing yet",
    "others": f"# ours\n{PRODUCTS}",
    "no line end": f"# ours\n{PRODUCTS}".rstrip(),
    "block": PRODUCTS + BLOCK,
    "block before others": BLOCK + PRODUCTS,
    "block without end": (PRODUCTS + BLOCK).partition("# the end")[0].rstrip(),
    "dashes at the left": BLOCK.replace("\n  ", "\n") + PRODUCTS,
    "empty list": f"measured: []  # none yet\n{PRODUCTS}",
    "list in a line": f"{PRODUCTS}measured: [{OLD}]  # one\n",
    "indented": "".join(f"  {line}\n" for line in (PRODUCTS + BLOCK).splitlines()),
    "in windows": (PRODUCTS + BLOCK).replace("\n", "\r\n"),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("rows", [[a_row()], [a_row(), a_row("old"), a_row("mid")], [a_row("mid"), a_row("other")]])
def test_rows_are_added_or_replaced_and_nothing_else_changes(
    name: str, rows: list[OwnMeasuredImage], tmp_path: Path
) -> None:
    path, text = tmp_path / OVERLAY, FILES[name] or ""
    if FILES[name] is not None:
        path.write_bytes(text.encode())
    before = yaml.safe_load(text) or {}
    assert save_measured(path, rows)
    after = yaml.safe_load(path.read_text())
    assert {key: after[key] for key in before if key != "measured"} == {
        key: before[key] for key in before if key != "measured"
    }
    found = {row.digest: row for row in load_for_lab(tmp_path).measured}
    old = [row["digest"] for row in before.get("measured") or ()]
    assert list(found) == [*old, *(row.digest for row in rows if row.digest not in old)]
    assert [found[row.digest] for row in rows] == rows
    for comment in ("# ours", "# cards", "# the old one", "# of spring", "# the end of it", "# none yet", "# one"):
        assert path.read_text().count(comment) == text.count(comment)
    written = path.read_bytes()
    assert not save_measured(path, rows)
    assert path.read_bytes() == written


@pytest.mark.parametrize(
    "text",
    [
        PRODUCTS + BLOCK + "...\n",
        f"{{measured: [{OLD}]}}",
        f"measured: [{OLD},]\n",
        f"measured: [{OLD} # of spring\n ]\n",
        "x: &rows\nmeasured: *rows\n",
        f"measured:\n  - {OLD}\n  - {OLD}\n",
        "measured: [1, 2]\n",
        "- 1\n",
        "text",
        "measured: {}\n",
        "measured:  # none yet\n",
        "measured:\n  - &a {}\n  - *a\n",
        "measure: [",
    ],
)
def test_a_file_is_changed_rightly_or_not_at_all(text: str, tmp_path: Path) -> None:
    path = tmp_path / OVERLAY
    path.write_text(text)
    rows = [a_row("old"), a_row()]
    with suppress(ProblemError):
        save_measured(path, rows)
    assert path.read_text() == text or set(rows) <= set(load_with_overlay(path).measured)


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real.yaml").write_text(PRODUCTS)
    (tmp_path / OVERLAY).symlink_to("real.yaml")
    save_measured(tmp_path / OVERLAY, [a_row()])
    assert (tmp_path / OVERLAY).is_symlink()
    assert (tmp_path / "real.yaml").read_text().startswith(PRODUCTS)


@given(source=st.text(st.characters(categories=("L", "N", "P", "S", "Zs")), min_size=4, max_size=40))
def test_every_text_of_a_row_is_read_again_as_it_was(source: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("lab") / OVERLAY
    save_measured(path, [a_row(source=source)])
    assert load_with_overlay(path).measured == (a_row(source=source),)
