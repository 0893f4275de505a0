"""Verbs, flags, confirmation, exit codes: the only place that prints, asks or exits."""

from provisioner.cli.app import provision


def main() -> None:
    provision.main(prog_name="provision")
