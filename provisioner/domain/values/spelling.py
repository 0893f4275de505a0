"""The closest known word to one that is not known."""

import difflib
from collections.abc import Iterable

_MAX_COMPARED = 200  # characters of the wrong word


def did_you_mean(wrong: str, known: Iterable[str]) -> str:
    """Return `; did you mean …?` with the closest known word, or an empty text where none is close."""
    near = difflib.get_close_matches(wrong[:_MAX_COMPARED], list(known), n=1)
    return f'; did you mean "{near[0]}"?' if near else ""
