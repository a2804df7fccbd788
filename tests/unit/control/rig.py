"""A server with a few operations, and what tests ask it with: requests over a real socket."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import trio
import trio.testing

from guestmemfs_fuse.control.client import call
from guestmemfs_fuse.control.protocol import (
    MAX_REPLY_BYTES,
    Decoder,
    Message,
)
from guestmemfs_fuse.control.server import (
    ControlServer,
    Handler,
    Progress,
    bind_listener,
)
from guestmemfs_fuse.core.errors import (
    InstanceBusyError,
)

Args = Mapping[str, object]
DEADLINE_S = 20.0


async def _echo(args: Args, progress: Progress) -> object:
    return dict(args)


async def _count(args: Args, progress: Progress) -> object:
    for done in range(3):
        await progress({"done": done})
    return "counted"


async def _busy(args: Args, progress: Progress) -> object:
    raise InstanceBusyError("3 processes map it", hint="stop them")


async def _bug(args: Args, progress: Progress) -> object:
    raise KeyError("lost")


async def _busy_in_a_nursery(args: Args, progress: Progress) -> object:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_busy, args, progress)
    return None


async def _unpackable(args: Args, progress: Progress) -> object:
    return object()


HANDLERS: dict[str, Handler] = {
    "echo": _echo,
    "count": _count,
    "busy": _busy,
    "bug": _bug,
    "busy in a nursery": _busy_in_a_nursery,
    "unpackable": _unpackable,
}


def serving(
    state_dir: Path,
    body: Callable[[ControlServer], Awaitable[None]],
    *,
    handlers: Mapping[str, Handler] = HANDLERS,
    allowed_uids: frozenset[int] | None = None,
    idle_timeout_s: float = DEADLINE_S,
    privileged_pid: int = 0,
) -> None:
    """Run body against a server, everything under one deadline. privileged_pid: nobody unless given."""

    async def main() -> None:
        with bind_listener(str(state_dir)) as listener:
            uids = frozenset({os.geteuid()}) if allowed_uids is None else allowed_uids
            server = ControlServer(
                listener,
                handlers,
                allowed_uids=uids,
                idle_timeout_s=idle_timeout_s,
                privileged_pid=privileged_pid,
            )
            with trio.fail_after(DEADLINE_S):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(server.serve)
                    await body(server)
                    nursery.cancel_scope.cancel()

    trio.run(main)


async def ask(state_dir: Path, op: str, args: Args | None = None, **more: object) -> object:
    return await trio.to_thread.run_sync(lambda: call(str(state_dir), op, args, **more))  # type: ignore[arg-type]


async def connect(state_dir: Path) -> trio.SocketStream:
    return await trio.open_unix_socket(str(state_dir / "control.sock"))


async def heard(stream: trio.SocketStream) -> list[Message]:
    """Everything until the server hangs up."""
    decoder = Decoder(MAX_REPLY_BYTES)
    messages: list[Message] = []
    while data := await stream.receive_some():
        messages += decoder.feed(data)
    return messages
