import click

from provisioner.adapters.ansible.fleet import AnsibleFleet
from provisioner.adapters.lab.directory import read_lab
from provisioner.cli.doing import take_down
from provisioner.cli.exits import FAILED
from provisioner.cli.introduce import fleet
from provisioner.cli.options import Reach, example, lab_argument, reaching, voiced, yes_option
from provisioner.cli.voice import Voice
from provisioner.cli.watch import watching
from provisioner.console.text import count, fold
from provisioner.domain.event import OnEvent
from provisioner.domain.seat import seat_name


@click.command(epilog=example("provision remove ai-lab --limit gpu01"))
@lab_argument
@yes_option
@reaching
@voiced
def remove(lab: str, yes: bool, reach: Reach, voice: Voice) -> int:
    """Take seats down, and forget their generations. Homes, tokens and host keys stay on the nodes."""
    directory = read_lab(lab)
    name = seat_name(directory.lab.name, directory.lab.seat.user)

    def nodes(on_event: OnEvent) -> AnsibleFleet:
        return fleet(directory, reach, voice.verbose, on_event)

    with watching(voice) as show:
        hosts = [host.name for host in nodes(show).hosts()]
    what = f"Take {name} down on {count(len(hosts), 'node')} ({fold(hosts)})? Whatever runs in it ends."
    if not (yes or voice.agreed(what)):
        voice.note("Nothing was changed.")
        return FAILED
    return take_down(voice, directory.lab.name, nodes, dict.fromkeys(hosts, name), "remove")
