"""The notice to the users of a lab: one line of printable text, without terminal control characters."""

from typing import Literal

from pydantic import Field

from provisioner.domain.rollout.report import DONE, NodeRecord
from provisioner.domain.values.line import one_line
from provisioner.domain.values.model import Document

NOTICE_SCHEMA: Literal["provisioner/notice/1"] = "provisioner/notice/1"
MAX_CHARACTERS = 300


def notice_text(text: str) -> str:
    """Return the text as one line, as it will be shown. Raises ValueError with a message for the user."""
    line = one_line(text, MAX_CHARACTERS)
    if not line:
        raise ValueError("is empty; to remove a notice use --clear")
    return line


class NoticeReport(Document):
    """The result of a notice. `text` None: the notice was removed."""

    schema_: Literal["provisioner/notice/1"] = Field(default=NOTICE_SCHEMA, alias="schema")
    lab: str
    text: str | None
    nodes: tuple[NodeRecord, ...]

    @property
    def done(self) -> bool:
        """Whether every node has it."""
        return all(record.state in DONE for record in self.nodes)
