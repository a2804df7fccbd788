"""Refuse a command, or say what would change. Pure: reads a State, changes nothing.

`decide(command, state, now_ns)` returns the records that carry the command out, or raises an `FsError`.
No records means: granted, and nothing changes. Permission bits and sticky directories are enforced by
the kernel before a request reaches us (default_permissions); what is decided here is existence, type,
limits, pins, marks and the serialised state.

Called by the engine, by fsck and by the model tests.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from guestmemfs_fuse.core import commands as cmd
from guestmemfs_fuse.core import rules_attributes, rules_instance, rules_memory, rules_names
from guestmemfs_fuse.core.errors import BusyFsError
from guestmemfs_fuse.core.records import Record
from guestmemfs_fuse.core.state import State

_RULES: Final[dict[type[cmd.Command], Callable[[Any, State, int], tuple[Record, ...]]]] = {
    cmd.Make: rules_names.make,
    cmd.Link: rules_names.link,
    cmd.Unlink: rules_names.unlink,
    cmd.Rmdir: rules_names.rmdir,
    cmd.Rename: rules_names.rename,
    cmd.SetAttrs: rules_attributes.set_attrs,
    cmd.SetXattr: rules_attributes.set_xattr,
    cmd.RemoveXattr: rules_attributes.remove_xattr,
    cmd.Resize: rules_memory.resize,
    cmd.Allocate: rules_memory.allocate,
    cmd.Punch: rules_memory.punch,
    cmd.Reap: rules_memory.reap,
    cmd.Pin: rules_instance.pin,
    cmd.Mark: rules_instance.mark,
    cmd.Freeze: rules_instance.freeze,
    cmd.StartDaemon: rules_instance.start_daemon,
    cmd.StartSession: rules_instance.start_session,
    cmd.EndSession: rules_instance.end_session,
    cmd.OpenBacking: rules_instance.open_backing,
    cmd.CloseBacking: rules_instance.close_backing,
    cmd.Quarantine: rules_instance.quarantine,
    cmd.ResizeRegion: rules_instance.resize_region,
}

_EVEN_WHEN_FROZEN: Final = (
    cmd.Freeze,
    cmd.StartDaemon,
    cmd.StartSession,
    cmd.EndSession,
    cmd.OpenBacking,
    cmd.CloseBacking,
    cmd.Quarantine,
)


def decide(command: cmd.Command, state: State, now_ns: int) -> tuple[Record, ...]:
    """What `command` would change, or a refusal.

    now_ns: the time stamp to give, nanoseconds since the epoch.
    Raises an FsError (BusyFsError for every modification of a frozen instance).
    """
    if state.frozen and not isinstance(command, _EVEN_WHEN_FROZEN):
        raise BusyFsError("the instance is frozen", hint="`guestmemfs thaw` allows modifications")
    return _RULES[type(command)](command, state, now_ns)
