"""An error that crossed a process boundary becomes the same error again.

Pure. Called by the control client (a daemon's reply) and the launcher (a daemon that refused to start).
"""

from __future__ import annotations

from guestmemfs_fuse.core import errors


def rebuild_error(
    class_name: str, message: str, hint: str | None = None, exit_code: int | None = None
) -> errors.GuestmemfsError:
    """The error of that class in core/errors.py, or a DaemonError when this version knows no such class.

    exit_code overrides the class's own where it is one of ExitCode (a newer daemon may have refined it).
    """
    found = getattr(errors, class_name, None)
    if not (isinstance(found, type) and issubclass(found, errors.GuestmemfsError)):
        found = errors.DaemonError
    error: errors.GuestmemfsError = found(message, hint=hint)
    try:
        error.exit_code = errors.ExitCode(error.exit_code if exit_code is None else exit_code)
    except ValueError:
        pass
    return error
