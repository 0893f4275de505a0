"""`provision facts`: the group of commands about the compatibility data."""

import click

from provisioner.cli.commands.facts.measure import measure
from provisioner.cli.commands.facts.show import show
from provisioner.cli.options import example

_HELP = {"-h", "--help"}


class _ShowByDefault(click.Group):
    """A group whose other words are those of `show`, which was all of `provision facts` before it was a group."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put `show` before words that name no command."""
        names_command = bool(args) and (args[0] in self.commands or args[0] in _HELP)
        return super().parse_args(ctx, args if names_command else ["show", *args])


@click.group(cls=_ShowByDefault, epilog=example("provision facts show ai-lab"))
def facts() -> None:
    """Show the compatibility data (also without `show`); measure what the torch of an image was compiled for."""


facts.add_command(show)
facts.add_command(measure)
