"""`guestmemfs check-config`: a unit's configuration file, before systemd stumbles over it."""

from __future__ import annotations

import click

from guestmemfs_fuse.cli.output import result, say
from guestmemfs_fuse.cli.sizes import size_text

_EXAMPLES = """\b
Examples:
  guestmemfs check-config /etc/guestmemfs/guests.toml
  guestmemfs check-config guests
"""


@click.command("check-config", epilog=_EXAMPLES)
@click.argument("file")
@click.pass_context
def check_config(ctx: click.Context, file: str) -> None:
    """Check FILE, the configuration of a unit guestmemfs@NAME.service.

    FILE is a path, or a NAME that stands for /etc/guestmemfs/NAME.toml. Says FILE:LINE: for every mistake
    (exit code 2), also for what this host cannot give. Changes nothing and needs no root.
    """
    from guestmemfs_fuse.cli import unit_config
    from guestmemfs_fuse.core.errors import GuestmemfsError

    path = unit_config.path_of(file)
    try:
        wishes = unit_config.read(path)
    except unit_config.ConfigError as error:
        for mistake in error.mistakes:
            say(mistake.at(path))
        ctx.exit(int(error.exit_code))
    from guestmemfs_fuse.cli.mounting import this_host
    from guestmemfs_fuse.cli.wishes import new_config

    assert wishes.name is not None
    try:
        config = new_config(wishes, wishes.name, wishes.mountpoint, wishes.dax_dir, this_host())
    except GuestmemfsError as error:
        with open(path, "rb") as source:
            say(unit_config.refusal(source.read(), error).at(path))
        ctx.exit(int(error.exit_code))
    what = f"{size_text(config.size_bytes)} {config.kind} region"
    result(f"{path}: instance {config.name}, a {what} at {config.mountpoint}")
