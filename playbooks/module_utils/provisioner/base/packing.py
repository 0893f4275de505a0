"""Compressed text in a result: ansible-runner replaces a result of more than 700 000 characters by an empty one."""

from __future__ import annotations

import base64
import zlib


def pack(text: str) -> str:
    """Return the text in compressed form: base64 of zlib."""
    return base64.b64encode(zlib.compress(text.encode(), 9)).decode()
