"""`guestmemfs run`: start a command whose guest memory comes from a region, whatever the kernel can map."""

from __future__ import annotations

import click

from guestmemfs_fuse.cli import streams
from guestmemfs_fuse.cli.seconds import Seconds
from guestmemfs_fuse.core.errors import UsageError

_EXAMPLES = """\b
Examples:
  guestmemfs run -- qemu-system-x86_64 -m 4G -mem-path /mnt/huge/vm1 ...
  guestmemfs run --until 2 -- qemu-system-x86_64 -object memory-backend-file,... -object ...
"""


@click.command(
    epilog=_EXAMPLES,
    # What follows the command's name is the command's own; an unknown option before it is a mistake.
    context_settings={"allow_interspersed_args": False},
)
@click.option(
    "--settle",
    type=Seconds(0),
    metavar="SECONDS",
    help="Let a program go when it has mapped guest memory and made no other mapping of it for SECONDS. "
    "[default: 1]",
)
@click.option(
    "--until",
    type=click.IntRange(min=1),
    metavar="N",
    help="Let everything go at the N-th mapping of guest memory, not before.",
)
@click.option("--keep", is_flag=True, help="Never let go: mappings that come late are redirected too.")
@click.option(
    "--no-share",
    is_flag=True,
    help="Leave private mappings of guest memory private; what the guest writes is then not preserved.",
)
@click.option("-v", "--verbose", is_flag=True, help="Say on stderr what was mapped and what tracing cost.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def run(
    settle: float | None,
    until: int | None,
    keep: bool,
    no_share: bool,
    verbose: bool,
    command: tuple[str, ...],
) -> None:
    """Start COMMAND with mmap of files in hugetlb regions redirected to the region.

    COMMAND takes this process's place (same pid, terminal, descriptors, exit status) and is traced only
    until its guest memory is mapped. On every region kind, private mappings of guest memory become shared,
    so that plain `qemu -mem-path` preserves its guest.
    """
    if sum((settle is not None, until is not None, keep)) > 1:
        raise UsageError("--settle, --until and --keep contradict each other", hint="give one of them")
    from guestmemfs_fuse.redirect.instances import InstanceResolver
    from guestmemfs_fuse.redirect.launch import Options, launch
    from guestmemfs_fuse.redirect.tracee import LeavingRule

    streams.close_filled_on_exec()
    rule = LeavingRule(until=until, keep=keep) if settle is None else LeavingRule(settle)
    launch(command, Options(rule, share=not no_share, verbose=verbose), InstanceResolver)
