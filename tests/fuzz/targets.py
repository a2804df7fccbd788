"""What is fuzzed: functions that take any bytes and raise only AssertionError, for a broken promise.

The same functions run under atheris for minutes (`make fuzz`, tests/fuzz/run.py) and under hypothesis for an
instant in every test run (tests/unit/test_fuzz_targets.py). Random bytes rarely get past a checksum, so the
metadata targets also make files whose framing is right and whose content is the fuzzer's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Final
from uuid import UUID
from zlib import crc32

import msgpack

from guestmemfs_fuse.control import protocol
from guestmemfs_fuse.control.protocol import ProtocolError
from guestmemfs_fuse.core import image
from guestmemfs_fuse.core.errors import MetadataError
from guestmemfs_fuse.core.state import State, new_state
from guestmemfs_fuse.core.types import BackingId
from guestmemfs_fuse.engine import fsck_offline
from guestmemfs_fuse.fuse import negotiate, wire
from guestmemfs_fuse.fuse.wire import WireError
from guestmemfs_fuse.metadata import codec, journal, snapshot, store
from guestmemfs_fuse.metadata.framing import FileHeader, FileKind, pack_frame, pack_header, seed_of
from guestmemfs_fuse.metadata.store import Store
from tests.unit.metadata.memory_files import MemoryFiles

REGION: Final = UUID("3d6f0a52-5b54-4b0e-9a3c-0123456789ab")
BLOCK_BYTES: Final = 2 << 20

_PARSERS: Final[tuple[Callable[[bytes], object], ...]] = (
    wire.request_header,
    wire.reply_header,
    wire.fallocate_request,
    wire.lseek_request,
    wire.tmpfile_request,
    wire.interrupted_unique,
    wire.forgotten_nodeids,
    wire.name_of,
    wire.rename_request,
    wire.is_user_attribute,
    wire.created_nodeid,
    negotiate.offered,
    negotiate.request_for_libfuse,
)


_PATCHES: Final[tuple[Callable[[bytearray], object], ...]] = (
    lambda message: wire.patch_open(message, BackingId(1)),
    lambda message: wire.patch_create(message, None),
    lambda message: wire.stamp(message, 7),
    wire.leave_now_to_us,
)


def wire_target(data: bytes) -> None:
    """FUSE messages: parsed or WireError; a patch never changes a message's length or its header."""
    for parse in _PARSERS:
        with suppress(WireError):
            parse(data)
    for patch in _PATCHES:
        message = bytearray(data)
        with suppress(WireError):
            patch(message)
        assert len(message) == len(data)
        assert message[:8] == data[:8], "length, and error or opcode"
    half = len(data) // 2
    with suppress(WireError):
        negotiate.accepted(negotiate.reply_for_kernel(data[:half], data[half:]))


def control_target(data: bytes) -> None:
    """The control protocol: messages or ProtocolError, however the stream is cut; what is decoded encodes."""
    whole = _decoded([data])
    cut = data[0] % (len(data) + 1) if data else 0
    assert _decoded([data[:cut], data[cut:]]) == whole
    for message in whole[0]:
        again = list(protocol.Decoder(1 << 24).feed(protocol.encode(message)))
        assert again == [message]


def _decoded(pieces: list[bytes]) -> tuple[list[protocol.Message], str | None]:
    decoder, found = protocol.Decoder(1 << 20), list[protocol.Message]()
    try:
        for piece in pieces:
            for message in decoder.feed(piece):
                found.append(message)
    except ProtocolError as error:
        return found, error.message
    return found, None


def journal_target(data: bytes) -> None:
    """A journal: any bytes as the file, and any payloads in right frames behind an empty instance."""
    _read_and_mend(_with_journal(data))
    payloads = list(_pieces(data))
    for payload in payloads:
        with suppress(MetadataError):
            transaction = codec.decode(payload)
            assert codec.decode(codec.encode(transaction)) == transaction
    header = pack_header(FileHeader(FileKind.JOURNAL, REGION, 1, 5))
    frames = [pack_frame(seed_of(header), number, each) for number, each in enumerate(payloads, 1)]
    _read_and_mend(_with_journal(header + b"".join(frames)))


def snapshot_target(data: bytes) -> None:
    """A snapshot: any bytes as the file, and any items in right frames with a right trailer."""
    _read_and_mend(_with_snapshot(data))
    packer = msgpack.Packer()
    header = pack_header(FileHeader(FileKind.SNAPSHOT, REGION, 0, 5))
    frames, count, checksum = [header], 0, 0
    for payload in _pieces(data):
        with suppress(MetadataError):
            items = codec.unpack(payload)
            if type(items) is tuple and items[:1] == (0,) and len(items) == 2 and type(items[1]) is tuple:
                frames.append(pack_frame(seed_of(header), len(frames), payload))
                count, checksum = count + len(items[1]), crc32(payload, checksum)
    frames.append(pack_frame(seed_of(header), len(frames), packer.pack((1, count, checksum))))
    _read_and_mend(_with_snapshot(b"".join(frames)))


def _pieces(data: bytes) -> Iterator[bytes]:
    """Cut into payloads: a length of two bytes before each."""
    while len(data) > 2:
        length = int.from_bytes(data[:2], "little")
        yield data[2 : 2 + length] or b"\xc0"
        data = data[2 + length :]


def _fresh(extents: bool) -> State:
    return new_state(region_bytes=64 * BLOCK_BYTES, block_bytes=BLOCK_BYTES, now_ns=1, extents=extents)


def _with_journal(data: bytes) -> MemoryFiles:
    files = MemoryFiles()
    Store.create(files, REGION, _fresh(extents=len(data) % 2 == 1)).close()
    files.put(journal.segment_name(1), data)
    return files


def _with_snapshot(data: bytes) -> MemoryFiles:
    files = MemoryFiles()
    Store.create(files, REGION, _fresh(extents=False)).close()
    files.put(snapshot.snapshot_name(0), data)
    return files


def _read_and_mend(files: MemoryFiles) -> None:
    """Reading refuses or yields a state that can be stored and read again; fsck copes with either."""
    with suppress(MetadataError):
        state = store.read_only_view(files, REGION).state
        assert tuple(image.dump(image.load(image.dump(state), lenient=True))) == tuple(image.dump(state))
    found = fsck_offline.check(files, REGION, None, repair=False)
    assert found.findings or found.checked.inodes
    with suppress(MetadataError):
        mended = fsck_offline.check(files, REGION, None, repair=True)
        if not mended.unrepaired:
            assert fsck_offline.check(files, REGION, None, repair=False).clean


TARGETS: Final[dict[str, Callable[[bytes], None]]] = {
    "wire": wire_target,
    "control": control_target,
    "journal": journal_target,
    "snapshot": snapshot_target,
}
