"""The requests that were read from the kernel and not answered yet, and the tokens that name them.

A token takes the place of the caller's pid in the header that libfuse sees, so that a pyfuse3 handler can
find out from ctx.pid which request it serves. Pure, except that nobody else may change it: owned by one
Relay.

Invariants: no two live requests share a token or a raw unique; a token is never 0.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from guestmemfs_fuse.fuse import abi
from guestmemfs_fuse.fuse.hooks import Request
from guestmemfs_fuse.fuse.wire import RequestHeader

# a pid_t is signed for pyfuse3
_TOKENS: Final = (1 << 31) - 1


class InFlight(NamedTuple):
    """One request being served. raw_unique: as read, which is what the reply must carry."""

    raw_unique: int
    opcode: int
    token: int
    started_ns: int
    request: Request


class InFlightTable:
    """Find a live request by its raw unique or by its token."""

    def __init__(self, *, first_token: int = 1) -> None:
        self._by_unique: dict[int, InFlight] = {}
        self._requests: dict[int, Request] = {}
        self._next_token = first_token

    def __len__(self) -> int:
        return len(self._by_unique)

    def get(self, raw_unique: int) -> InFlight | None:
        """The live request of that unique, if there is one."""
        return self._by_unique.get(raw_unique)

    def oldest_age_ns(self, now_ns: int) -> int:
        """How long the longest live request has been served; 0 when there is none."""
        return max((now_ns - entry.started_ns for entry in self._by_unique.values()), default=0)

    def begin(self, header: RequestHeader, now_ns: int) -> InFlight:
        """A request under a fresh token. It may be answered before anybody can ask for it; else `keep` it."""
        token = self._next_token
        while token in self._requests:
            token = token % _TOKENS + 1
        self._next_token = token % _TOKENS + 1
        _, opcode, raw_unique, nodeid, uid, gid, pid = header
        unique = raw_unique & ~abi.UNIQUE_RESEND
        request = Request(unique, unique != raw_unique, nodeid, uid, gid, pid)
        return InFlight(raw_unique, opcode, token, now_ns, request)

    def keep(self, entry: InFlight) -> None:
        """Take in a request that was begun."""
        self._by_unique[entry.raw_unique] = entry
        self._requests[entry.token] = entry.request

    def pop(self, raw_unique: int) -> InFlight | None:
        """Let a request go that is answered now; None when there is none of that unique."""
        entry = self._by_unique.pop(raw_unique, None)
        if entry is not None:
            del self._requests[entry.token]
        return entry

    def find(self, token: int) -> Request | None:
        """The live request a handler serves; None when its reply has passed already."""
        return self._requests.get(token)
