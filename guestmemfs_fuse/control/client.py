"""Asking a daemon something, from the command line. Blocking, standard library and msgpack only.

Invariant: an error that the daemon raised on purpose is raised here again as the same class, with message,
hint and exit code; everything else that goes wrong is a DaemonError. Called by cli/.
"""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Callable, Iterator, Mapping

from guestmemfs_fuse.control.protocol import (
    MAX_REPLY_BYTES,
    MAX_REQUEST_BYTES,
    PROTOCOL_VERSION,
    Decoder,
    ErrorReply,
    Event,
    Hello,
    Message,
    ProtocolError,
    Reply,
    Request,
    encode,
)
from guestmemfs_fuse.core.errors import DaemonError, UnsupportedError
from guestmemfs_fuse.core.rebuild import rebuild_error
from guestmemfs_fuse.handover.short_path import short_path
from guestmemfs_fuse.metadata.instance_config import Paths

RESTART_WAIT_S = 5.0
"""How long a request waits for a daemon that is just being replaced (`wait_s`)."""
_RETRY_S = 0.02
_ATTEMPTS = 3
_UNREAD = (BrokenPipeError, ConnectionResetError)
"""What a unix socket says when it was closed before our request was read (net/unix/af_unix.c,
unix_release_sock); after that it would be the end of the stream."""


class NotRunningError(DaemonError):
    """Nobody listens on the instance's control socket."""


class GoneError(DaemonError):
    """The daemon ended, or handed over, before it answered."""


def call(
    state_dir: str,
    op: str,
    args: Mapping[str, object] | None = None,
    *,
    timeout_s: float | None = 30.0,
    wait_s: float = 0.0,
    on_event: Callable[[Mapping[str, object]], None] | None = None,
) -> object:
    """Have the daemon of state_dir do op, and return its result.

    timeout_s: longest silence between two messages, None for no limit. wait_s: how long to go on trying
    while nobody listens (a daemon that is being restarted). on_event gets each progress event.

    A daemon that is being replaced hangs up on who has not spoken yet: then its successor is asked.

    Raises the GuestmemfsError that the daemon raised; NotRunningError when nobody listens; GoneError when it
    dies; DaemonError when it goes silent or is of another version; UnsupportedError when it refuses us.
    """
    request = Request(op, args or {})
    attempts_left = _ATTEMPTS
    while True:
        attempts_left -= 1
        with _connect(state_dir, wait_s) as connection:
            connection.settimeout(timeout_s)
            try:
                return _result(_exchange(connection, request), on_event)
            except TimeoutError as error:
                raise DaemonError(f"the daemon did not answer {op} within {timeout_s:g} s") from error
            except OSError as error:
                if not (isinstance(error, _UNREAD) and attempts_left):
                    raise GoneError(f"the daemon went away during {op}: {error.strerror}") from error


def _result(messages: Iterator[Message], on_event: Callable[[Mapping[str, object]], None] | None) -> object:
    for message in messages:
        match message:
            case Event(values):
                if on_event is not None:
                    on_event(values)
            case Reply(result):
                return result
            case ErrorReply(class_name, text, hint, exit_code):
                raise rebuild_error(class_name, text, hint, exit_code)
            case _:
                raise ProtocolError(f"the daemon answered with a {type(message).__name__.lower()}")
    raise GoneError("the daemon went away before it answered", hint="see its daemon.log")


def _exchange(connection: socket.socket, request: Request) -> Iterator[Message]:
    """Send hello and request in one go, check the daemon's hello, then yield what else it says."""
    unsent: OSError | None = None
    try:
        connection.sendall(encode(Hello()) + encode(request, MAX_REQUEST_BYTES))
    except _UNREAD as error:
        unsent = error  # it may have said why before it hung up
    decoder = Decoder(MAX_REPLY_BYTES)
    greeted = False
    while data := connection.recv(1 << 16):
        for message in decoder.feed(data):
            if isinstance(message, Hello):
                greeted = True
                _check_version(message)
            elif greeted or isinstance(message, ErrorReply):
                yield message
            else:
                raise ProtocolError("the daemon did not introduce itself")
    if unsent is not None:
        raise unsent


def _check_version(hello: Hello) -> None:
    if hello.version != PROTOCOL_VERSION:
        raise ProtocolError(
            f"the daemon speaks version {hello.version} of the control protocol, not {PROTOCOL_VERSION}",
            hint="it runs other code than this command: end it with SIGTERM, then mount again",
        )


def _connect(state_dir: str, wait_s: float) -> socket.socket:
    deadline = time.monotonic() + wait_s
    while True:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with short_path(Paths(state_dir).control_sock) as address:
                connection.connect(address)
            return connection
        except OSError as error:
            connection.close()
            if error.errno in (errno.EACCES, errno.EPERM):
                raise UnsupportedError("only root may talk to the daemon", hint="use sudo") from error
            if time.monotonic() >= deadline:
                raise NotRunningError(
                    "the daemon is not running", hint="`guestmemfs mount` starts it again"
                ) from error
        time.sleep(_RETRY_S)
