"""What is told to the people in a lab's seats: one line of text, and nothing in it that a terminal would obey."""

from typing import Literal

from pydantic import Field

from provisioner.domain.rollout.report import DONE, NodeRecord
from provisioner.domain.values.model import Document

NOTICE_SCHEMA: Literal["provisioner/notice/1"] = "provisioner/notice/1"
MAX_CHARACTERS = 300


def notice_text(text: str) -> str:
    """One line, as it will be shown. Raises ValueError with words for whoever typed it."""
    told = " ".join(text.split())
    if not told:
        raise ValueError("is empty; to take a notice back say --clear")
    if len(told) > MAX_CHARACTERS:
        raise ValueError(f"has {len(told)} characters, and at most {MAX_CHARACTERS} are shown")
    if bad := next((c for c in told if not c.isprintable()), None):
        raise ValueError(f"holds U+{ord(bad):04X}, which is not for showing")
    return told


class NoticeReport(Document):
    """`text` None: a notice was taken back."""

    schema_: Literal["provisioner/notice/1"] = Field(default=NOTICE_SCHEMA, alias="schema")
    lab: str
    text: str | None
    nodes: tuple[NodeRecord, ...]

    @property
    def done(self) -> bool:
        return all(record.state in DONE for record in self.nodes)
