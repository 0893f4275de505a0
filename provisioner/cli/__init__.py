"""Verbs, flags, confirmation and exit codes. Only this package prints, asks and exits."""

from provisioner.cli.app import provision
from provisioner.cli.streams import prepare_streams


def main() -> None:
    """Run the command line and exit."""
    prepare_streams()
    provision.main(prog_name="provision")
