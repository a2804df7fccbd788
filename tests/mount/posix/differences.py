"""What the mount answers otherwise than tmpfs, and why: the one table. docs/semantics.md presents it.

A check whose id is in here must answer `ours` on the mount. test_semantics_doc.py holds the document to
this table, and the suite fails when an entry is no longer true.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Difference:
    """ours: the mount's answer; reason: the heading in docs/semantics.md that explains it."""

    ours: object
    reason: str


# Calls that carry data: (title, call, arguments after the descriptor, (how many bytes tmpfs says, whether the
# file is as it was)). Each of them is a difference: the mount answers EINVAL, and the file is as it was.
DATA_CALLS: Final[tuple[tuple[str, str, tuple[object, ...], tuple[object, bool]], ...]] = (
    ("read", "read", (10,), (10, True)),
    ("read of all", "read", (100_000,), (8192, True)),
    ("pread", "pread", (10, 6), (10, True)),
    ("pread at the end", "pread", (10, 8192), (0, True)),
    ("readv", "readv", (10,), (10, True)),
    ("write", "write", (b"data",), (4, False)),
    ("write of a page", "write", (b"p" * 4096,), (4096, False)),
    ("write of much", "write", (b"m" * 100_000,), (100_000, False)),
    ("pwrite", "pwrite", (b"data", 100), (4, False)),
    ("pwrite behind the end", "pwrite", (b"data", 100_000), (4, False)),
    ("writev", "writev", (b"data",), (4, False)),
    ("sendfile out of it", "sendfile_out_of", (), (4, True)),
    ("sendfile into it", "sendfile_into", (), (4, False)),
    ("splice out of it", "splice_out_of", (), (4, True)),
    ("splice into it", "splice_into", (), (4, False)),
)

_DATA: Final = "No data by system call"
_MEMORY: Final = "Memory is allocated when a file grows"
_HUGE: Final = "Mappings are of huge pages"
_XATTRS: Final = "Only user attributes"
_TIMES: Final = "Times"
_RENAME: Final = "No whiteouts"
_KERNEL: Final = "What the kernel does otherwise for FUSE"

_DIFFERENCES: Final[tuple[tuple[str, object, str], ...]] = (
    *((f"data: {title}", ("EINVAL", True), _DATA) for title, *_ in DATA_CALLS),
    ("data: read of an empty file", "EINVAL", _DATA),
    ("data: append", ("EINVAL", 0), _DATA),
    ("data: copy between two files of the mount", "EINVAL", _DATA),
    ("data: a file sent to another of the mount", "EINVAL", _DATA),
    ("data: a write takes the setuid bit", ("6777", "EINVAL"), _DATA),
    ("truncate: to more than the filesystem holds", "ENOSPC", _MEMORY),
    ("truncate: to a petabyte", "EFBIG", _MEMORY),
    ("truncate: to more than a file can hold", "EFBIG", _MEMORY),
    ("truncate: touching the page behind the end is a bus error", "none", _HUGE),
    ("truncate: bytes stored behind the end show when the file grows", bytes(100), _HUGE),
    ("truncate: times of setting the size it has", {"d/f": "mc"}, _TIMES),
    ("readdir: times of listing", {"d": ""}, _TIMES),
    ("symlink: times of readlink", {"l": ""}, _TIMES),
    ("symlink: times of following", {"l": "", "d": ""}, _TIMES),
    ("mmap: times of mapping", {"f": ""}, _TIMES),
    ("mmap: times of storing through a mapping", "", _TIMES),
    ("utimensat: to the year 2500", ((9223372036, 854775807),) * 2, _TIMES),
    ("rename: leaving a whiteout", "EINVAL", _RENAME),
    ("kernel: the upper layer of an overlay", "EINVAL", _RENAME),
    ("kernel: a file in a queue of events", "ok", _KERNEL),
    ("kernel: data in a directory", 0, _KERNEL),
    ("kernel: when a file was born", False, _KERNEL),
    ("kernel: the flags of a file", "ENOTTY", _KERNEL),
    ("kernel: the flags of a directory", "ENOTTY", _KERNEL),
    ("kernel: sealing a file", "EINVAL", _KERNEL),
    ("kernel: a watch on all of it", "ENODEV", _KERNEL),
    ("kernel: a view with other owners", "EINVAL", _KERNEL),
    ("kernel: memory behind the end, beyond the process's file size limit", "ok", _KERNEL),
    *(
        (f"kernel: bits of a file only others may run after {how} by bob", "2767", _KERNEL)
        for how in ("truncate", "O_TRUNC", "fallocate", "a hole")
    ),
    ("xattr: set a value as long as can be", "ENOSPC", _XATTRS),
    ("xattr: set a trusted one", "EOPNOTSUPP", _XATTRS),
    ("xattr: set a security one", "EOPNOTSUPP", _XATTRS),
    ("xattr: get a trusted one that is missing", "EOPNOTSUPP", _XATTRS),
    ("xattr: get a security one that is missing", "EOPNOTSUPP", _XATTRS),
    ("xattr: get an access list that is missing", "EOPNOTSUPP", _XATTRS),
)

DIFFERENCES: Final = {check: Difference(ours, reason) for check, ours, reason in _DIFFERENCES}
