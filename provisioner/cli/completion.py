import click
from click.shell_completion import get_completion_class

from provisioner.cli.exits import DONE
from provisioner.cli.options import example
from provisioner.cli.verbs import provision


@click.command(epilog=example("provision completion bash > ~/.local/share/bash-completion/completions/provision"))
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> int:
    """Print the completion script of SHELL.

    \b
    bash: provision completion bash > ~/.local/share/bash-completion/completions/provision
    zsh:  provision completion zsh > a file named _provision in a directory of $fpath
    fish: provision completion fish > ~/.config/fish/completions/provision.fish
    """
    complete = get_completion_class(shell)
    if complete is None:
        raise click.BadParameter(f"click knows no {shell}")
    click.echo(complete(provision, {}, "provision", "_PROVISION_COMPLETE").source())
    return DONE
