"""Which system calls of a traced program are changed, and into what.

Only mmap, fstatfs and statfs are looked at, and of those only the ones about files on our mounts:
  hugetlb kind       mmap maps the region file; statfs and fstatfs tell of a hugetlbfs with its page size
  other kinds        a private writable mapping becomes shared, unless told otherwise; on kernels without
                     passthrough the mapping is of the backing file
  other filesystems  nothing

Invariant: whatever goes wrong here becomes an errno in the program and a line on stderr; it never stops the
tracer. Called by the tracer at every entry of such a call.
"""

from __future__ import annotations

import errno
import os

from guestmemfs_fuse.core.errors import GuestmemfsError
from guestmemfs_fuse.redirect import arch, kernel
from guestmemfs_fuse.redirect.inject import Call, Rewrite, Steps
from guestmemfs_fuse.redirect.kernel import SyscallEntry
from guestmemfs_fuse.redirect.layout import Layout, MmapRequest, Plan, RefusedMappingError, plan
from guestmemfs_fuse.redirect.mapping import TracedProgram, placed, redirected
from guestmemfs_fuse.redirect.report import Report
from guestmemfs_fuse.redirect.resolve import FoundFile, Locator, Resolver

CALLS = frozenset({arch.SYS_MMAP, arch.SYS_FSTATFS, arch.SYS_STATFS})


class Rewriter:
    """Decides about one call at a time; keeps no state of its own."""

    def __init__(self, resolver: Resolver, report: Report, *, share: bool) -> None:
        self._resolver = resolver
        self._locator = Locator(resolver)
        self._report = report
        self._share = share

    def rewrite(self, tid: int, entry: SyscallEntry) -> Rewrite | None:
        """What to do instead of a call in CALLS, or None to let it pass."""
        try:
            if entry.number == arch.SYS_MMAP:
                return self._mmap(tid, entry)
            if entry.number == arch.SYS_FSTATFS:
                return self._fstatfs(tid, entry)
            return Rewrite(self._statfs_steps(tid, entry))
        except GuestmemfsError as error:
            self._report.problem(_line(error))
            return None

    def process_is_gone(self) -> None:
        """A traced process has ended or was let go."""
        self._locator.forget_others()

    # -- mmap ----------------------------------------------------------------------------------------

    def _mmap(self, tid: int, entry: SyscallEntry) -> Rewrite | None:
        address, length_bytes, prot, flags, raw_fd, offset_bytes = entry.arguments
        request = MmapRequest(address, length_bytes, prot, flags, arch.as_int(raw_fd), offset_bytes)
        if flags & arch.MAP_ANONYMOUS or request.fd < 0:
            return None
        file = self._locator.of_fd(tid, request.fd)
        if file is None or file.is_path_only:
            return None
        try:
            layout = self._layout(file)
            wanted = plan(request, layout, share=self._share, fd_is_writable=file.access_mode == os.O_RDWR)
        except RefusedMappingError as error:
            self._report.detail(f"{file.name}: mmap refused: {error.message}")
            return Rewrite(_refusal(entry, error.errno))
        except GuestmemfsError as error:
            self._report.problem(f"{file.name} cannot be mapped: {_line(error)}")
            return Rewrite(_refusal(entry, errno.ENODEV))
        steps = self._mmap_steps(tid, file, request, layout, wanted)
        return Rewrite(steps, is_mapping=True)

    def _layout(self, file: FoundFile) -> Layout:
        try:
            return self._resolver.layout(file.mount, file.ino)
        except GuestmemfsError as error:
            if file.region.kind == "hugetlb":
                raise
            # With passthrough the kernel needs nobody's answer; without it, it will refuse by itself.
            self._report.problem(f"{file.name}: {_line(error)}")
            return Layout(file.region.kind, file.region.page_bytes, None)

    def _mmap_steps(
        self, tid: int, file: FoundFile, request: MmapRequest, layout: Layout, wanted: Plan
    ) -> Steps:
        if wanted.region_path is None:
            address = yield from placed(request, wanted, request.fd)
        else:
            program = TracedProgram(tid, wanted.region_path, file.access_mode)
            address = yield from redirected(request, wanted, file.access_mode, program)
        if arch.is_error(address):
            text = os.strerror(-address)
            self._report.detail(f"{file.name}: mmap of {request.length_bytes} bytes: {text}")
            return address
        if layout.has_extents and not self._is_still(file, layout):
            yield Call(arch.SYS_MUNMAP, (address, wanted.length_bytes))
            self._report.problem(f"{file.name} was changed while it was being mapped")
            return -errno.EAGAIN
        was_shared = request.is_private and not wanted.pieces[0].flags & arch.MAP_PRIVATE
        self._report.detail(
            f"{file.name}: {wanted.length_bytes} bytes at {address:#x} mapped from "
            f"{wanted.region_path or 'the mount'} in {len(wanted.pieces)} pieces"
            + (", shared instead of private" if was_shared else "")
        )
        return address

    def _is_still(self, file: FoundFile, layout: Layout) -> bool:
        """Whether the blocks just mapped are the file's own still.

        From here on the mapping is in /proc/PID/maps, where the daemon looks before it gives blocks away;
        before, a shrinking file could have lost them to another one unseen.
        """
        try:
            return self._resolver.layout(file.mount, file.ino) == layout
        except GuestmemfsError as error:
            self._report.problem(f"{file.name}: {_line(error)}")
            return False

    # -- statfs --------------------------------------------------------------------------------------

    def _fstatfs(self, tid: int, entry: SyscallEntry) -> Rewrite | None:
        file = self._locator.of_fd(tid, arch.as_int(entry.arguments[0]))
        if file is None or file.region.kind != "hugetlb":
            return None
        return Rewrite(self._told_as_hugetlbfs(tid, entry, file.region.page_bytes))

    def _statfs_steps(self, tid: int, entry: SyscallEntry) -> Steps:
        result = yield Call(entry.number, entry.arguments)
        if arch.is_error(result):
            return result
        # The thread follows the path itself. We might wait for a filesystem whose daemon we trace, for ever.
        arguments = (arch.AT_FDCWD, entry.arguments[0], os.O_PATH | os.O_CLOEXEC)
        fd = yield Call(arch.SYS_OPENAT, arguments)
        if arch.is_error(fd):
            return result
        try:
            file = self._locator.of_fd(tid, fd)
            if file is not None and file.region.kind == "hugetlb":
                self._patch(tid, entry.arguments[1], file.region.page_bytes)
        except GuestmemfsError as error:
            self._report.problem(_line(error))
        yield Call(arch.SYS_CLOSE, (fd,))
        return result

    def _told_as_hugetlbfs(self, tid: int, entry: SyscallEntry, page_bytes: int) -> Steps:
        result = yield Call(entry.number, entry.arguments)
        if not arch.is_error(result):
            self._patch(tid, entry.arguments[1], page_bytes)
        return result

    def _patch(self, tid: int, address: int, page_bytes: int) -> None:
        try:
            raw = kernel.read_memory(tid, address, arch.STATFS_BYTES)
            kernel.write_memory(tid, address, arch.statfs_as_hugetlbfs(raw, page_bytes))
        except OSError as error:
            self._report.problem(f"statfs could not be answered: {error}")


def _refusal(entry: SyscallEntry, number: int) -> Steps:
    """The program's own mmap, of no bytes at all, which maps nothing; answered with -number."""
    address, _, *others = entry.arguments
    yield Call(entry.number, (address, 0, *others))
    return -number


def _line(error: GuestmemfsError) -> str:
    return f"{error.message} ({error.hint})" if error.hint else error.message
