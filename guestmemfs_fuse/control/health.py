"""Whether the daemon is well, for systemd's watchdog: it answers like anybody's daemon, or it is killed.

Two things can go wrong while the process lives: the loop is stuck (then nothing here runs, and silence is
the answer), or requests are taken and never answered. So it asks itself over its own control socket, as any
command would, and looks how old the oldest unanswered request is. Work that may take long, and says that it
is under way, does not count.

Called by the daemon, only when systemd wants it (WATCHDOG_USEC).
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from guestmemfs_fuse.control.protocol import (
    MAX_REPLY_BYTES,
    Decoder,
    ErrorReply,
    Hello,
    ProtocolError,
    Reply,
    Request,
    encode,
)
from guestmemfs_fuse.handover.short_path import short_path

log = logging.getLogger(__name__)

PER_INTERVAL: Final = 3
"""So that one late turn of a busy host is no death sentence."""


def unhealthy(oldest_in_flight_ns: int, changes_under_way: int, limit_s: float) -> str | None:
    """Why the channel cannot be called well, or None.

    oldest_in_flight_ns: age of the oldest request without an answer; changes_under_way: allocations and the
    like, which take as long as they take.
    """
    if changes_under_way == 0 and oldest_in_flight_ns > limit_s * 1e9:
        return f"a request has been waiting for its answer for {oldest_in_flight_ns / 1e9:.0f} s"
    return None


async def feed(
    interval_s: float, examine: Callable[[float], Awaitable[str | None]], tell: Callable[[], bool]
) -> None:
    """Tell the watchdog that all is well, as long as it is; runs for ever.

    interval_s: within which systemd wants to hear; examine(timeout_s) says what is wrong, or None.
    """
    pause_s = interval_s / PER_INTERVAL
    while True:
        problem = await examine(pause_s)
        if problem is None:
            tell()
        else:
            log.error("not well: %s", problem)
        await trio.sleep(pause_s)


async def answers(socket_path: str, timeout_s: float) -> str | None:
    """Ask the daemon behind a control socket for a ping; what went wrong, or None."""
    try:
        with trio.fail_after(timeout_s), short_path(socket_path) as address:
            stream = await trio.open_unix_socket(address)
            async with stream:
                await stream.send_all(encode(Hello()) + encode(Request("ping", {})))
                return await _answer(stream)
    except trio.TooSlowError:
        return f"the control socket did not answer within {timeout_s:g} s"
    except (OSError, trio.BrokenResourceError, ProtocolError) as error:
        return f"the control socket does not work: {error}"


async def _answer(stream: trio.SocketStream) -> str | None:
    decoder = Decoder(MAX_REPLY_BYTES)
    async for data in stream:
        for message in decoder.feed(bytes(data)):
            match message:
                case Reply():
                    return None
                case ErrorReply(class_name, text):
                    return f"ping was answered with {class_name}: {text}"
    return "the control socket hung up"
