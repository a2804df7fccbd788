"""What can go wrong between us and a VMM. Raised by this room, shown by the CLI."""

from __future__ import annotations

from guestmemfs_fuse.core.errors import ExitCode, GuestmemfsError


class VmError(GuestmemfsError):
    """Root of this room's errors."""


class MonitorError(VmError):
    """The monitor cannot be reached, hung up, or refused a command."""


class NotPreservableError(VmError):
    """The guest's RAM would not outlive its VMM; the hint says which arguments to change."""

    exit_code = ExitCode.UNSUPPORTED


class SaveError(VmError):
    """Saving failed; the message says whether the guest goes on in the old VMM."""


class RestoreError(VmError):
    """Restoring failed; the saved state and the RAM are as they were."""


class RecordError(VmError):
    """A state file, or the record beside it, is missing, damaged, or of another format."""

    exit_code = ExitCode.DAMAGED
