"""The environments of a lab as a table."""

from rich.console import Group
from rich.text import Text

from provisioner.console.tables import cell, make_table
from provisioner.console.text import fold_some_names
from provisioner.domain.lab.environment_list import EnvironmentEntry, EnvironmentList


def environments_view(found: EnvironmentList) -> Group:
    """Render a row for each environment, and for those without an image on some node which ones these are."""
    table = make_table("environment", "torch", "images", "nodes", "from")
    for entry in found.environments:
        images = "\n".join(reference.rpartition("/")[2] for reference in entry.images)
        table.add_row(
            cell(entry.name),
            cell(entry.torch or ("" if not entry.images else "several")),
            Text("\n").join([cell(image) for image in images.split("\n")]),
            cell(fold_some_names(entry.nodes)),
            cell(_origin(entry), "" if entry.locked and (entry.in_lab or entry.kept_from) else "yellow"),
        )
    unserved = [entry for entry in found.environments if entry.unserved]
    said = (f"{entry.name}: no image for {fold_some_names(entry.unserved)}" for entry in unserved)
    return Group(table, *(Text(line, "yellow") for line in said))


def _origin(entry: EnvironmentEntry) -> str:
    if entry.kept_from:
        return f"kept from {entry.kept_from}"
    if not entry.locked:
        return "lab.yml, not locked yet"
    return "lab.yml" if entry.in_lab else "not in lab.yml any more: goes with the next lock"
