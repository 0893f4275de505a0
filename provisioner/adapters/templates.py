"""The texts of the templates: the shipped ones, and a lab's own compose template."""

from pathlib import Path

from provisioner.adapters.state.files import read_text
from provisioner.domain.seat.render import COMPOSE_TEMPLATE


def read_templates(shipped: Path, lab: Path | None = None) -> dict[str, str]:
    """Return the text of each template by file name.

    A lab directory may hold its own `templates/compose.yaml.j2`. What it renders must pass the same checks.
    Raises ProblemError where the lab's template cannot be read.
    """
    texts = {path.name: path.read_text(encoding="utf-8") for path in sorted(shipped.iterdir()) if path.is_file()}
    own = None if lab is None else lab / "templates" / COMPOSE_TEMPLATE
    if own is not None and own.exists():
        texts[COMPOSE_TEMPLATE] = read_text(own, f"correct {own}, or remove it to use the shipped template")
    return texts
