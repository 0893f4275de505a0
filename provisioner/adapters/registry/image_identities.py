"""Which image a digest names for a platform: once read it stays so for ever, and is not asked for again.

Docker Hub counts each manifest that is read, and a wait looks every ten minutes. Whatever cannot be read or written
here is as if it were not there.
"""

import json
from contextlib import suppress
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from provisioner.adapters.state.files import cache_home, write_text
from provisioner.domain.values.image_identity import Identity
from provisioner.domain.values.problem import ProblemError

_MOST = 1000
_LIMIT = 1 << 20
_KNOWN = TypeAdapter(dict[str, Identity])


def known(digest: str, platform: str) -> Identity | None:
    return _read().get(f"{digest} {platform}")


def keep(identity: Identity, platform: str) -> None:
    """The newest are kept."""
    before = _read()
    before.pop(f"{identity.tag} {platform}", None)
    after = [*before.items(), (f"{identity.tag} {platform}", identity)][-_MOST:]
    with suppress(ProblemError):
        write_text(_place(), json.dumps({key: one.model_dump() for key, one in after}) + "\n")


def _place() -> Path:
    return cache_home() / "identities.json"


def _read() -> dict[str, Identity]:
    try:
        with _place().open("rb") as file:
            return _KNOWN.validate_json(file.read(_LIMIT))
    except (OSError, ValidationError):
        return {}
