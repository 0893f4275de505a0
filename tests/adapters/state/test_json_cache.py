"""A JSON file in the cache folder: read back as written, and absent if it is damaged or too large."""

from pathlib import Path

import pytest
from pydantic import TypeAdapter

from provisioner.adapters.state.files import cache_home
from provisioner.adapters.state.json_cache import JsonCache, hashed_name
from provisioner.domain.values.problem import ProblemError

CACHE = JsonCache("folder/file.json", TypeAdapter(dict[str, int]), limit=20)


def test_value_is_read_back_as_written() -> None:
    assert CACHE.read() is None
    CACHE.write({"a": 1})
    assert CACHE.read() == {"a": 1}
    assert CACHE.path == cache_home() / "folder/file.json"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"a": "x"}', b"\xff", b'{"a": 1}'.ljust(21)])
def test_damaged_or_too_large_file_counts_as_absent(content: bytes) -> None:
    CACHE.write({"a": 1})
    CACHE.path.write_bytes(content)
    assert CACHE.read() is None


def test_write_raises_where_the_folder_is_not_writable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert CACHE.read() is None
    with pytest.raises(ProblemError, match="unwritable"):
        CACHE.write({"a": 1})


def test_hashed_names_differ_and_are_safe() -> None:
    one, other = hashed_name("feeds", "https://a/../b"), hashed_name("feeds", "https://a/../c")
    assert one != other
    assert Path(one).parent == Path("feeds")
    assert one.removeprefix("feeds/").removesuffix(".json").isalnum()
