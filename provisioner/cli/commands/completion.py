"""`provision completion`: the completion script of a shell."""

import click
from click.shell_completion import get_completion_class

from provisioner.cli.exit_codes import DONE
from provisioner.cli.options import example


@click.command(epilog=example("provision completion bash > ~/.local/share/bash-completion/completions/provision"))
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> int:
    """Print the completion script of SHELL.

    \b
    bash: provision completion bash > ~/.local/share/bash-completion/completions/provision
    zsh:  provision completion zsh > a file named _provision in a directory of $fpath
    fish: provision completion fish > ~/.config/fish/completions/provision.fish
    """
    complete = get_completion_class(shell)
    if complete is None:
        raise click.BadParameter(f"click knows no {shell}")
    click.echo(complete(ctx.find_root().command, {}, "provision", "_PROVISION_COMPLETE").source())
    return DONE
