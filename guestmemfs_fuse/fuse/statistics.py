"""Counting what passes the channel: cheap while counting, frozen when asked.

status, top and the metrics read RelayStatistics and nothing else. Owned by one Relay.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from guestmemfs_fuse.fuse.abi import InitFlag, Opcode


@dataclass(frozen=True, slots=True)
class RelayStatistics:
    """A look at the channel; counts since this daemon took the session over.

    requests, replies, latency_ns: by opcode name; latency is the sum from reading a request to writing its
    reply, so latency_ns / replies is the mean. swallowed: what libfuse never sees (forgets, interrupts, the
    replayed INIT's reply). data_reads, data_writes: read(2) and write(2) calls refused; nothing else ever
    carried data. stale_replies: the caller was gone (ENOENT). resend_supported: None before a resume.
    """

    requests: Mapping[str, int]
    replies: Mapping[str, int]
    latency_ns: Mapping[str, int]
    in_flight: int
    oldest_in_flight_ns: int
    resent: int
    interrupted: int
    swallowed: int
    stale_replies: int
    data_reads: int
    data_writes: int
    bytes_from_kernel: int
    bytes_to_kernel: int
    resend_supported: bool | None
    init_flags: tuple[str, ...]


class Counters:
    """The running counts; per opcode a list of requests, replies and nanoseconds."""

    __slots__ = (
        "_by_opcode",
        "bytes_from_kernel",
        "bytes_to_kernel",
        "interrupted",
        "resent",
        "stale_replies",
        "swallowed",
    )

    def __init__(self) -> None:
        self._by_opcode: dict[int, list[int]] = {}
        self.bytes_from_kernel = 0
        self.bytes_to_kernel = 0
        self.interrupted = 0
        self.resent = 0
        self.stale_replies = 0
        self.swallowed = 0

    def request(self, opcode: int, length_bytes: int) -> None:
        """A request came in."""
        self.bytes_from_kernel += length_bytes
        try:
            self._by_opcode[opcode][0] += 1
        except KeyError:
            self._by_opcode[opcode] = [1, 0, 0]

    def reply(self, opcode: int, latency_ns: int) -> None:
        """A request of this daemon's was answered."""
        row = self._by_opcode[opcode]
        row[1] += 1
        row[2] += latency_ns

    def freeze(
        self,
        *,
        in_flight: int,
        oldest_in_flight_ns: int,
        resend_supported: bool | None,
        init_flags: InitFlag,
    ) -> RelayStatistics:
        """The counts as of now, together with what only the relay knows."""
        requests, replies, latency_ns = (self._column(index) for index in range(3))
        return RelayStatistics(
            requests=requests,
            replies=replies,
            latency_ns=latency_ns,
            in_flight=in_flight,
            oldest_in_flight_ns=oldest_in_flight_ns,
            resent=self.resent,
            interrupted=self.interrupted,
            swallowed=self.swallowed,
            stale_replies=self.stale_replies,
            data_reads=requests.get("read", 0),
            data_writes=requests.get("write", 0),
            bytes_from_kernel=self.bytes_from_kernel,
            bytes_to_kernel=self.bytes_to_kernel,
            resend_supported=resend_supported,
            init_flags=tuple(flag.name.lower() for flag in InitFlag if flag in init_flags and flag.name),
        )

    def _column(self, index: int) -> dict[str, int]:
        """Requests (0), replies (1) or nanoseconds (2), by opcode name."""
        return {_name(opcode): row[index] for opcode, row in self._by_opcode.items()}


def _name(opcode: int) -> str:
    try:
        return Opcode(opcode).name.lower()
    except ValueError:
        return f"opcode_{opcode}"
