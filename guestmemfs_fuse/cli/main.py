"""The command `guestmemfs`: which commands there are, and what holds for all of them.

Entry point of the console script (`main`). Commands are imported when they are used (cli/lazy.py), errors
leave through one boundary (cli/boundary.py).
"""

from __future__ import annotations

import os

import click

from guestmemfs_fuse import __version__
from guestmemfs_fuse.cli import streams
from guestmemfs_fuse.cli.boundary import DEBUG_VARIABLE, guard
from guestmemfs_fuse.cli.lazy import Entry, LazyGroup

ENTRIES = (
    Entry("mount", "mount:mount", "Mount an instance; make it on first use."),
    Entry("umount", "umount:umount", "Unmount; region and metadata stay."),
    Entry("restart", "restart:restart", "Replace the running daemon under the live mount."),
    Entry("destroy", "destroy:destroy", "Give an instance's memory back, for good."),
    Entry("list", "list:list_instances", "Show all instances and what to do about them."),
    Entry("status", "status:status", "Show one instance: use, huge pages, files, users."),
    Entry("map", "map:map_file", "Show where one file's memory is and who maps it."),
    Entry("pin", "pin:pin", "Keep a file from being removed, replaced or shrunk."),
    Entry("unpin", "pin:unpin", "Allow that again."),
    Entry("resize-file", "resize_file:resize_file", "Set a file's size, by force where the mount refuses."),
    Entry("freeze", "freeze:freeze", "Refuse every modification; mmap goes on."),
    Entry("thaw", "freeze:thaw", "Allow modifications again."),
    Entry("fsck", "fsck:fsck", "Check the metadata against the region."),
    Entry("run", "run:run", "Start a program whose guest memory comes from a region."),
    Entry("vm", "vm:vm", "Save, restore and list QEMU guests whose RAM is on a mount."),
    Entry("liveupdate", "liveupdate:liveupdate", "Carry a memfd region across kexec with /dev/liveupdate."),
    Entry("resize", "resize:resize", "Grow or shrink a region under its mount."),
    Entry("serve", "serve:serve", "Become an instance's daemon, for systemd."),
    Entry("check-config", "check_config:check_config", "Check a unit's configuration file."),
    Entry("top", "top:top", "Watch one instance: use, requests, who maps what."),
    Entry("metrics", "metrics:metrics", "Print figures for Prometheus."),
    Entry("debug-dump", "debug_dump:debug_dump", "Collect what a bug report needs."),
    Entry("completion", "completion:completion", "Print a shell's completion script."),
    Entry("bench", "bench:bench", "Measure this host, beside the alternatives."),
    Entry("doctor", "doctor:doctor", "Probe this host: what works, what does not."),
)

EXIT_CODES = """\b
Exit codes:
  0  done
  1  failed, or nothing to do (umount of what is not mounted)
  2  wrong usage, or options that contradict what is there
  3  no such instance, mountpoint or file
  4  this host lacks something (root, /dev/fuse, a kernel feature)
  5  still in use, or already served
  6  stored metadata was refused; nothing was changed
  7  the host cannot give the memory
  8  the daemon did not start, died or does not answer
  130  interrupted
"""


def _want_debug(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value:
        # In the environment, so that the error boundary outside of click sees it whatever goes wrong.
        os.environ[DEBUG_VARIABLE] = "1"


@click.group(
    cls=LazyGroup,
    entries=ENTRIES,
    guard=guard,
    name="guestmemfs",
    epilog=EXIT_CODES,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option(
    "--debug",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_want_debug,
    help=f"Show tracebacks (as {DEBUG_VARIABLE}=1 does).",
)
@click.version_option(__version__, prog_name="guestmemfs")
def cli() -> None:
    """Guest RAM as files that outlive the VMM, the daemon and the kernel.

    TARGET is the name of an instance or its mountpoint. Results go to stdout, everything else to stderr;
    --json keys and exit codes are stable (docs/cli.md).

    \b
    Examples:
      guestmemfs mount /mnt/guests --size 64G
      qemu-system-x86_64 -m 4G -object \\
        memory-backend-file,id=ram,size=4G,mem-path=/mnt/guests/vm1,share=on,align=2M \\
        -machine memory-backend=ram ...
      guestmemfs status /mnt/guests
      guestmemfs restart /mnt/guests
    """


def main() -> None:
    """Run the command line and leave with its exit code."""
    streams.fill()
    cli()
