"""Verbs, flags, confirmation and exit codes. Only this package prints, asks and exits."""

from provisioner.cli.app import provision


def main() -> None:
    """Run the command line and exit."""
    provision.main(prog_name="provision")
