"""/sbin/mount.guestmemfs: what mount(8) runs for `mount -t guestmemfs NAME DIR -o size=4G,...`.

    mount.guestmemfs NAME DIR [-sfnv] [-o OPTIONS] [-t TYPE]

Installed as mount.fuse.guestmemfs too: that is the type the mount table shows, so that is what a remount
asks for. Exit codes are mount(8)'s: 0, 1 for wrong usage, 2 for what this host lacks, 32 when the mount
failed. Like `guestmemfs mount` it gives up, with the reason, when the daemon is not ready in time.
"""

from __future__ import annotations

import getopt
import re
import sys
from dataclasses import dataclass
from typing import get_args

from guestmemfs_fuse.cli import streams
from guestmemfs_fuse.cli.mount_options import MountOptions, parse
from guestmemfs_fuse.cli.output import say
from guestmemfs_fuse.cli.settings import SETTINGS
from guestmemfs_fuse.core.errors import GuestmemfsError, UnsupportedError, UsageError
from guestmemfs_fuse.metadata.instance import RegionKind

USAGE = 1
SYSTEM = 2
FAILED = 32
_OPTION = rf"--({'|'.join(SETTINGS)}|reserve)\b(?: ({'|'.join(get_args(RegionKind))}|\d\w*)\b)?"
_USAGE_LINE = "mount.guestmemfs NAME DIR [-sfnv] [-o OPTIONS]"


@dataclass(frozen=True, slots=True)
class Call:
    """One call by mount(8); fake: check everything, mount nothing (-f)."""

    name: str
    directory: str
    options: MountOptions
    fake: bool


def main(argv: list[str] | None = None) -> int:
    """Entry point; the exit code."""
    streams.fill()
    try:
        call = read(sys.argv[1:] if argv is None else argv)
        _obey(call)
    except GuestmemfsError as error:
        _say(as_mount_options(error.message), as_mount_options(error.hint or ""))
        return _exit_code(error)
    except OSError as error:
        _say(f"{error.filename}: {error.strerror}" if error.filename else str(error), "")
        return FAILED
    except KeyboardInterrupt:
        return FAILED
    return 0


def read(arguments: list[str]) -> Call:
    """What mount(8) asked for. Raises UsageError."""
    try:
        flags, positional = getopt.gnu_getopt(arguments, "sfnvo:t:N:")
    except getopt.GetoptError as error:
        raise UsageError(error.msg, hint=_USAGE_LINE) from error
    if len(positional) != 2:
        raise UsageError("a name and a directory are needed", hint=_USAGE_LINE)
    given = {flag for flag, _value in flags}
    if "-N" in given:
        raise UsageError("mounting in another namespace is not possible", hint="use nsenter -m")
    words = ",".join(value for flag, value in flags if flag == "-o")
    name, directory = positional
    return Call(name, directory, parse(words, sloppy="-s" in given), fake="-f" in given)


def _obey(call: Call) -> None:
    if call.fake:
        return
    from guestmemfs_fuse.cli import host

    host.require_root()
    if call.options.remount:
        _remount(call)
        return
    host.require_fuse()
    from guestmemfs_fuse.cli.mounting import mount_instance
    from guestmemfs_fuse.cli.wishes import Wishes

    mount_instance(Wishes(call.directory, name=call.name, **call.options.wishes))


def _remount(call: Call) -> None:
    """Another size is the one thing that can be changed; what is as it was is no error."""
    from guestmemfs_fuse.cli.resizing import resize
    from guestmemfs_fuse.cli.wishes import Wishes, require_same
    from guestmemfs_fuse.metadata.instance import find

    instance = find(call.directory)
    wishes = dict(call.options.wishes)
    size_bytes = wishes.pop("size_bytes", None)
    require_same(instance.config, Wishes(call.directory, **wishes), wishes.get("dax_dir"))
    if size_bytes is not None:
        resize(instance, size_bytes)


def _exit_code(error: GuestmemfsError) -> int:
    if isinstance(error, UsageError):
        return USAGE
    return SYSTEM if isinstance(error, UnsupportedError) else FAILED


def as_mount_options(text: str) -> str:
    """What is said of the options of `guestmemfs mount`, as they are written behind -o."""
    return re.sub(_OPTION, lambda found: found[1] + (f"={found[2]}" if found[2] else ""), text)


def _say(message: str, hint: str) -> None:
    # One line each, as mount(8) itself speaks.
    say(f"mount.guestmemfs: {message}")
    if hint:
        say(f"mount.guestmemfs: {hint}")


if __name__ == "__main__":
    sys.exit(main())
