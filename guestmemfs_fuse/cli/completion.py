"""`guestmemfs completion`: what a shell needs to complete our commands, options and instance names."""

from __future__ import annotations

import click

SHELLS = ("bash", "zsh", "fish")
VARIABLE = "_GUESTMEMFS_COMPLETE"

_EXAMPLES = """\b
Examples:
  eval "$(guestmemfs completion bash)"
  guestmemfs completion fish >~/.config/fish/completions/guestmemfs.fish
"""


@click.command("completion", epilog=_EXAMPLES)
@click.argument("shell", type=click.Choice(SHELLS), metavar="SHELL")
def completion(shell: str) -> None:
    """Print the completion script for SHELL: bash, zsh or fish.

    `make install` and the package put these scripts where the shells look for them.
    """
    click.echo(script(shell), nl=False)


def script(shell: str) -> str:
    """The script of one of SHELLS."""
    from click.shell_completion import ShellComplete, get_completion_class

    from guestmemfs_fuse.cli.main import cli

    found = get_completion_class(shell)
    assert found is not None, shell
    # Not found.source(): that starts bash to find out how old it is, and the script may be for elsewhere.
    return ShellComplete.source(found(cli, {}, "guestmemfs", VARIABLE)).rstrip() + "\n"


def complete_targets(command: click.Command) -> click.Command:
    """Let the command's TARGET be completed with the names of instances."""
    for parameter in command.params:
        if isinstance(parameter, click.Argument) and parameter.name == "target":
            parameter._custom_shell_complete = _instances
    return command


def _instances(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    from guestmemfs_fuse.metadata.instance import all_instances

    return [each.name for each in all_instances() if each.name.startswith(incomplete)]
