"""`guestmemfs completion`: what a shell needs to complete our commands, options, instances and paths."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Literal

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

Source = Callable[[click.Context, click.Parameter, str], "list[CompletionItem]"]
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


def complete_values(command: click.Command) -> click.Command:
    """Let arguments and options be completed by what they are: instances, directories, files."""
    for parameter in command.params:
        source = _SOURCES.get(parameter.name or "")
        if source is not None:
            parameter._custom_shell_complete = source
    if isinstance(command, click.Group):
        for each in command.commands.values():
            complete_values(each)
    return command


def _instances(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names, or a directory where the word looks like one: a mountpoint is as good."""
    from click.shell_completion import CompletionItem

    if incomplete.startswith(("/", ".")):
        return [CompletionItem(incomplete, type="dir")]
    from guestmemfs_fuse.metadata.instance import all_instances

    return [CompletionItem(each.name) for each in all_instances() if each.name.startswith(incomplete)]


def _from_disk(kind: Literal["dir", "file"]) -> Source:
    def complete(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        return [CompletionItem(incomplete, type=kind)]

    return complete


_FILE, _DIRECTORY = _from_disk("file"), _from_disk("dir")
_SOURCES: Mapping[str, Source] = {
    "target": _instances,
    **dict.fromkeys(("mountpoint", "dax_dir", "state_dir"), _DIRECTORY),
    **dict.fromkeys(("path", "file", "svg_path", "textfile", "output"), _FILE),
}
"""By the names of parameters, which mean the same in every command."""
