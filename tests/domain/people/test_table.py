import codecs

import pytest

from provisioner.domain.people.table import Row, decode_table, read_rows
from provisioner.domain.values.problem import Problem

TEXT = "id,姓名\r\nanna,王小明\r\n"


@pytest.mark.parametrize(
    "raw",
    [
        TEXT.encode(),
        codecs.BOM_UTF8 + TEXT.encode(),
        codecs.BOM_UTF16_LE + TEXT.encode("utf-16-le"),
        codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be"),
        TEXT.encode("gbk"),
        TEXT.encode("gb18030"),
    ],
)
def test_every_encoding_of_a_spreadsheet_is_decoded(raw: bytes) -> None:
    assert decode_table(raw, "roster.csv") == TEXT


@pytest.mark.parametrize(
    ("raw", "place"),
    [
        ("id,name\r\nanna,M\u00fc,x\r\n".encode("latin-1"), "2:2"),
        (codecs.BOM_UTF8 + "id,姓名\n".encode() + b"a;b,\xff", "2:3"),
        (codecs.BOM_UTF16_LE + "id\tx\ra\tb\t".encode("utf-16-le") + b"\x00\xd8", "2:3"),
        (codecs.BOM_UTF16_LE + "id".encode("utf-16-le") + b"\n", "1:1"),
    ],
)
def test_another_encoding_is_refused_with_its_place(raw: bytes, place: str) -> None:
    problem = decode_table(raw, "roster.csv")
    assert isinstance(problem, Problem)
    assert (problem.code, problem.what.split(" neither")[0]) == ("not_decodable", f"roster.csv:{place}:")


def a_known(cell: str) -> bool:
    return cell in {"id", "node"}


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("", []),
        ("\n\n", []),
        ("id", [Row(1, ("id",))]),
        ("id,node\na,b", [Row(1, ("id", "node")), Row(2, ("a", "b"))]),
        ("id,node\n\n\r\n\r,\na,\n", [Row(1, ("id", "node")), Row(6, ("a", ""))]),
        ('"id"; "node" \n"a;""b"" ";c', [Row(1, ("id", "node")), Row(2, ('a;"b"', "c"))]),
        ('id,node\n"a\n\n",b\n\nc,d', [Row(1, ("id", "node")), Row(2, ("a", "b")), Row(6, ("c", "d"))]),
        ('id,node\na,"b', [Row(1, ("id", "node")), Row(2, ("a", ""), is_broken=True)]),
        ('id,node\n"a"b,c\nd', [Row(1, ("id", "node")), Row(2, ("",), is_broken=True)]),
        ("a,b;c\n", [Row(1, ("a", "b;c"))]),
        ("sep=;\nid,node;x\n", [Row(2, ("id,node", "x"))]),
        ("sep=|\nid|node\n", [Row(1, ("sep=|",)), Row(2, ("id|node",))]),
    ],
)
def test_rows_with_the_lines_that_they_start_in(text: str, rows: list[Row]) -> None:
    assert list(read_rows(text, a_known)) == rows
