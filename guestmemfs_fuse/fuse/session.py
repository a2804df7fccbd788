"""Make pyfuse3 wait for its next request through the relay.

pyfuse3 reaches trio through its module attribute `trio`, which its own asyncio mode replaces in the same
way. With ours in place its worker asks Relay.wait_for_request() instead of waiting for the socket in epoll:
a request needs no wakeup of a second task, and neither does its reply. That is a third of the relay's price
per call.

Should a later pyfuse3 no longer look there, attach() says False and the relay pumps by itself, slower.
Owns the one seam object; called by the switchboard once, before pyfuse3.main.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyfuse3
import trio

if TYPE_CHECKING:
    from guestmemfs_fuse.fuse.relay import Relay


class _NoLock:
    """What pyfuse3 gets for trio.Lock: the relay itself lets one worker at a time watch the device."""

    async def __aenter__(self) -> None:
        pass

    async def __aexit__(self, *_: object) -> None:
        pass


class _HandOver(trio.abc.Instrument):
    """Tell the relay whenever a task gave up control.

    A worker whose handler answers without waiting comes straight back for the next request, and no other
    worker needs to be woken meanwhile. One whose handler waits has given up control without anybody
    watching the device.
    """

    def __init__(self, relay: Relay) -> None:
        self._hand_over = relay.hand_over

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self._hand_over()


class _LowLevel:
    """trio.lowlevel, except for the session's descriptor."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay

    def __getattr__(self, name: str) -> object:
        return getattr(trio.lowlevel, name)

    async def wait_readable(self, fd: int) -> None:
        if fd == self._relay.session_fd:
            await self._relay.wait_for_request()
        else:
            await trio.lowlevel.wait_readable(fd)

    def notify_closing(self, fd: int) -> None:
        """pyfuse3.terminate() calls this."""
        if fd == self._relay.session_fd:
            self._relay.end_session()
        else:
            trio.lowlevel.notify_closing(fd)


class _Trio:
    """The module trio, as pyfuse3 is to see it."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self.lowlevel = _LowLevel(relay)

    def __getattr__(self, name: str) -> object:
        return getattr(trio, name)

    def Lock(self) -> _NoLock:
        return _NoLock()


def attach(relay: Relay) -> bool:
    """Put the relay under pyfuse3. False: this pyfuse3 has no such seam, use Relay.run(pump=True)."""
    if getattr(pyfuse3, "trio", None) is not trio:
        return False
    vars(pyfuse3)["trio"] = _Trio(relay)
    trio.lowlevel.add_instrument(_HandOver(relay))
    return True


def detach() -> None:
    """Give pyfuse3 the real trio back (tests that run several sessions in a process)."""
    vars(pyfuse3)["trio"] = trio
