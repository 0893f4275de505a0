"""`provision facts measure`: read in images what their torch was compiled for."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import click

from provisioner.adapters import resources
from provisioner.adapters.engine.builder import TORCH_FACTS
from provisioner.adapters.engine.docker_engine import DockerEngine
from provisioner.adapters.lab.compatibility_data import OVERLAY, load, save_measured
from provisioner.adapters.lab.directory import read_lab
from provisioner.adapters.registry.client import Registry
from provisioner.adapters.templates import read_templates
from provisioner.cli.exit_codes import DONE, FAILED
from provisioner.cli.options import ca_option, complete_labs, example, with_output
from provisioner.cli.output import Output
from provisioner.cli.progress_display import show_progress
from provisioner.cli.wiring import endpoints
from provisioner.console.facts import measured_view
from provisioner.console.problems import problems
from provisioner.domain.registry.catalog import Listing
from provisioner.domain.registry.copy_commands import RegistryEndpoint
from provisioner.domain.selection.measured import MEASURED_SCHEMA, ImageMeasurement, to_row
from provisioner.domain.values.event import OnEvent
from provisioner.domain.values.reference import ImageReference
from provisioner.workflow.lock.measure import measure_images


@click.command(epilog=example("provision facts measure registry.lab:5000/ours/train:7 --lab ai-lab"))
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True)
@click.option(
    "--lab",
    metavar="LAB",
    shell_complete=complete_labs,
    help="Write what is found into compatibility.yaml of this lab, and reach its registries as its lab.yml says.",
)
@ca_option
@click.option("--plain-http", is_flag=True, help="No TLS.")
@with_output
def measure(*, images: tuple[str, ...], lab: str | None, ca: Path | None, plain_http: bool, output: Output) -> int:
    """Read in each IMAGE what its torch was compiled for, and compare that with the compatibility data.

    The Docker Engine of this machine pulls the image where it is not present, and runs its python3 without a network,
    a GPU or any capability. With --lab, `provision lock` knows the image from then on, by its digest.

    Exit 1 where an image could not be measured.
    """
    references = [_parse(text) for text in images]
    directory = None if lab is None else read_lab(lab)
    hosts = {reference.registry for reference in references if reference.registry is not None}
    own = ca and str(ca)
    places = {host: RegistryEndpoint(address=host, ca=own, plain_http=plain_http) for host in hosts}
    places |= {} if directory is None else endpoints(directory)
    with show_progress(output) as on_event:
        found = _measure(references, places, on_event)
    output.document(MEASURED_SCHEMA, {"images": [each.model_dump(mode="json") for each in found]})
    output.show(measured_view(found))
    output.note(problems([("", problem) for each in found for problem in each.problems], "red"))
    if directory is not None:
        _save(directory.path / OVERLAY, found, output)
    return DONE if all(each.measured for each in found) else FAILED


def _parse(text: str) -> ImageReference:
    try:
        return ImageReference.parse(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def _measure(
    references: list[ImageReference], places: Mapping[str, RegistryEndpoint], on_event: OnEvent
) -> list[ImageMeasurement]:
    authorities = {host: Path(place.ca) for host, place in places.items() if place.ca is not None}

    def inspect(reference: ImageReference, platform: str) -> Listing:
        host = str(reference.registry)
        plain_http = places[host].plain_http
        with Registry(host, ca=authorities.get(host), plain_http=plain_http, on_event=on_event) as registry:
            return registry.inspect(reference, platform)

    engine = DockerEngine.connect(authorities, on_event)
    try:
        script = read_templates(resources.templates())[TORCH_FACTS]
        return measure_images(references, engine, inspect, script, load())
    finally:
        engine.close()


def _save(path: Path, found: list[ImageMeasurement], output: Output) -> None:
    today = datetime.now(UTC).date().isoformat()
    if rows := [row for each in found if (row := to_row(each, today)) is not None]:
        written = save_measured(path, rows)
        output.note(f"{path}: {'written' if written else 'unchanged'}. It belongs under version control.")
