"""The name of a person inside the containers of their seat: the control machine and the nodes run this same file.

So it uses the standard library only, as of Python 3.8.
"""

import re

_OTHER = re.compile(r"[^a-z0-9_-]")
_LONGEST = 31  # characters; useradd accepts 32
_FALLBACK = "user"


def login_name(person: str) -> str:
    """Return the login of the person with this id: the id itself, or a folded form where a login cannot be that.

    A login has lower-case letters, digits, `_` and `-`, begins with no `-` and is never root. It may have digits only.
    """
    folded = _OTHER.sub("-", person.lower()).lstrip("-")[:_LONGEST]
    return _FALLBACK if folded in {"", "root"} else folded
