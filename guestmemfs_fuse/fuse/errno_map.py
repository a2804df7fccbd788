"""The one table that says which errno a refusal becomes.

Every class below FsError has a row of its own; a test walks them all. Called by the relay, by operations'
wrapper around pyfuse3 handlers, and by nothing else.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from guestmemfs_fuse.core import errors

ERRNO: Final[Mapping[type, int]] = MappingProxyType(
    {
        errors.NoEntryError: errno.ENOENT,
        errors.StaleInodeError: errno.ESTALE,
        errors.EntryExistsError: errno.EEXIST,
        errors.NotDirectoryError: errno.ENOTDIR,
        errors.IsDirectoryError: errno.EISDIR,
        errors.DirectoryNotEmptyError: errno.ENOTEMPTY,
        errors.NameTooLongFsError: errno.ENAMETOOLONG,
        errors.InvalidCallError: errno.EINVAL,
        errors.NotPermittedError: errno.EPERM,
        errors.BusyFsError: errno.EBUSY,
        errors.RegionFullError: errno.ENOSPC,
        errors.FileTooBigError: errno.EFBIG,
        errors.TooManyLinksError: errno.EMLINK,
        errors.UserLimitError: errno.EDQUOT,
        errors.NoAttributeError: errno.ENODATA,
        errors.AttributeTooBigError: errno.E2BIG,
        errors.AttributeUnsupportedError: errno.EOPNOTSUPP,
        errors.NoDataThereError: errno.ENXIO,
        errors.UnsupportedModeError: errno.EOPNOTSUPP,
        errors.InterruptedFsError: errno.EINTR,
        errors.ReadOnlyInstanceError: errno.EROFS,
        errors.MetadataFullError: errno.ENOSPC,
        errors.MetadataWriteError: errno.EIO,
    }
)


def errno_of(error: BaseException) -> int:
    """The errno to answer with; EIO for anything that is no refusal of ours (the caller logs it as a bug)."""
    for kind in type(error).__mro__:
        if kind in ERRNO:
            return ERRNO[kind]
    return errno.EIO
