"""The texts of the templates: those shipped, and a lab's own in place of one of them."""

from pathlib import Path

from provisioner.adapters.state.files import read_text
from provisioner.domain.seat.render import COMPOSE_TEMPLATE


def read_templates(shipped: Path, lab: Path | None = None) -> dict[str, str]:
    """File name → text. A lab directory may bring `templates/compose.yaml.j2`; the same proof holds what it renders.

    Raises ProblemError where the lab's own cannot be read.
    """
    texts = {path.name: path.read_text(encoding="utf-8") for path in sorted(shipped.iterdir()) if path.is_file()}
    own = None if lab is None else lab / "templates" / COMPOSE_TEMPLATE
    if own is not None and own.exists():
        texts[COMPOSE_TEMPLATE] = read_text(own, f"correct {own}, or remove it: the shipped template is used then")
    return texts
