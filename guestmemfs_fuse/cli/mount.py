"""`guestmemfs mount`: options in, cli/mounting does the work."""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

import click

from guestmemfs_fuse.cli import host
from guestmemfs_fuse.cli.output import result, say
from guestmemfs_fuse.cli.sizes import parse_size, size_argument, size_text
from guestmemfs_fuse.cli.wishes import Wishes
from guestmemfs_fuse.metadata.instance import HugeWish, RegionKind

if TYPE_CHECKING:
    from guestmemfs_fuse.metadata.instance import Instance

_KINDS = click.Choice(get_args(RegionKind))
_PAGE_SIZES = click.Choice(["2M", "1G"], case_sensitive=False)


_EXAMPLES = """\b
Examples:
  guestmemfs mount /mnt/guests --size 64G
  guestmemfs mount /mnt/guests
  guestmemfs mount /mnt/node1 --size 32G --numa-node 1 --name node1
  guestmemfs mount /mnt/huge --size 32G --region hugetlb --page-size 1G --reserve
"""


@click.command(epilog=_EXAMPLES)
@click.argument("mountpoint")
@click.option("--size", type=size_argument, metavar="SIZE", help="Size of the region, needed on first use.")
@click.option("--region", type=_KINDS, help="What holds the memory.  [default: tmpfs]")
@click.option(
    "--page-size",
    type=_PAGE_SIZES,
    metavar="[2M|1G]",
    help="Block size; 1G only with hugetlb.  [default: 2M]",
)
@click.option("--dax-dir", metavar="DIR", help="Directory on an fsdax filesystem, for --region dax.")
@click.option("--numa-node", type=click.IntRange(min=0), metavar="N", help="Take memory of this node only.")
@click.option("--reserve", is_flag=True, help="Grow the pool of huge pages as needed, for --region hugetlb.")
@click.option(
    "--huge",
    type=click.Choice(get_args(HugeWish)),
    metavar="[prefer|require]",
    help="For tmpfs and memfd: what to do about memory without huge pages.  [default: prefer]",
)
@click.option("--name", metavar="NAME", help="Name of the instance.  [default: made from MOUNTPOINT]")
@click.option(
    "--state-dir",
    metavar="DIR",
    help="Where its state is kept.  [default: /run/guestmemfs/NAME, with --region dax DAX_DIR/NAME]",
)
@click.option("--foreground", is_flag=True, help="Become the daemon (for systemd); no holder is started.")
def mount(
    mountpoint: str,
    size: int | None,
    region: RegionKind | None,
    page_size: str | None,
    dax_dir: str | None,
    numa_node: int | None,
    reserve: bool,
    huge: HugeWish | None,
    name: str | None,
    state_dir: str | None,
    foreground: bool,
) -> None:
    """Mount an instance on MOUNTPOINT, an empty directory.

    The first call makes it and needs --size (K, M, G, T), which is rounded up to whole blocks. Later calls
    attach data and metadata again; a different --size or --region is refused then. Returns once the mount
    serves requests; when the daemon cannot start, says why and leaves nothing behind.

    A mount whose daemon and holder were both killed is recognised, detached and brought back.
    """
    host.require_root()
    host.require_fuse()
    from guestmemfs_fuse.cli.mounting import mount_instance

    page_bytes = parse_size(page_size) if page_size is not None else None
    made = mount_instance(
        Wishes(
            mountpoint,
            size,
            region,
            page_bytes,
            dax_dir,
            numa_node,
            name,
            state_dir,
            foreground,
            reserve=reserve,
            huge=huge,
        )
    )
    _say_what_it_takes(made)
    what = f"{size_text(made.config.size_bytes)} {made.config.kind} region"
    result(f"instance {made.name} serves a {what} at {made.config.mountpoint}")


def _say_what_it_takes(made: Instance) -> None:
    """Where the kernel cannot map files through the mount, how programs get their memory."""
    from guestmemfs_fuse.cli import daemons
    from guestmemfs_fuse.core.errors import GuestmemfsError

    if made.config.kind == "hugetlb":
        return  # that is what this kind is like, on every kernel
    try:
        pong = daemons.ask(made, "ping")
    except GuestmemfsError:
        return  # it serves; what it can do is only a note
    if not pong.get("passthrough", True):
        say("note: this kernel has no FUSE passthrough (Linux >= 6.9): start VMMs with `guestmemfs run`")
