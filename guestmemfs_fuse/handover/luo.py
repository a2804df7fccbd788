"""What of a memfd region is carried across kexec in a live update session, and how it is packed. Pure.

A session named after the instance holds one file per inode, under the inode's number as token, and under
token 0 the manifest: configuration, metadata and the list of what else there is, with a checksum, since
everything else about the instance (in /run) is lost. Where systemd carries its fd store through the kexec
itself (261 and later), there is no session of ours: the manifest lies in the store beside the files.

Invariants: a manifest that was decoded is what was encoded, or is refused; `check_file` and `check_state`
say yes before anybody may finish the session. Used by luo_preserve (old kernel) and luo_retrieve (new one).
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol
from uuid import UUID

import msgpack

from guestmemfs_fuse.core.errors import CorruptMetadataError, ForeignMetadataError, UnknownFormatError
from guestmemfs_fuse.core.state import State

MANIFEST_TOKEN: Final = 0
"""No inode has this number."""

_PREFIX: Final = "guestmemfs-"
_NAME_MAX: Final = 63  # LIVEUPDATE_SESSION_NAME_LENGTH is 64 with the final NUL
_FORMAT: Final = 1
_HEAD: Final = struct.Struct("<8sIQ32s")  # magic, format, length of what follows, its SHA-256
_MAGIC: Final = b"GMEMLUO\0"


class Kernel(Protocol):
    """The ioctls of /dev/liveupdate (linux/liveupdate); tests put a table in its place."""

    def open_device(self) -> int: ...

    def create_session(self, device_fd: int, name: str, /) -> int: ...

    def retrieve_session(self, device_fd: int, name: str, /) -> int: ...

    def preserve_fd(self, session_fd: int, fd: int, token: int, /) -> None: ...

    def retrieve_fd(self, session_fd: int, token: int, /) -> int: ...

    def finish(self, session_fd: int, /) -> None: ...


@dataclass(frozen=True, slots=True)
class Manifest:
    """What is in a session besides guest memory.

    config: the text of instance.json. metadata: journal and snapshot, by file name. file_sizes: size in bytes
    of each preserved file, by inode number. thaw: whether preserving froze the instance (otherwise it had
    been frozen before, and stays so). boot_id: of the kernel that preserved it.
    """

    name: str
    uuid_hex: str
    boot_id: str
    generation: int
    thaw: bool
    config: bytes
    metadata: Mapping[str, bytes]
    file_sizes: Mapping[int, int]


def session_name(name: str) -> str:
    """The session of the instance called name: guestmemfs-NAME, cut and made unique where too long."""
    whole = _PREFIX + name
    if len(whole) <= _NAME_MAX:
        return whole
    return f"{whole[: _NAME_MAX - 9]}+{zlib.crc32(name.encode()):08x}"


def encode(manifest: Manifest) -> bytes:
    """A manifest as bytes."""
    values = {
        "name": manifest.name,
        "uuid_hex": manifest.uuid_hex,
        "boot_id": manifest.boot_id,
        "generation": manifest.generation,
        "thaw": manifest.thaw,
        "config": manifest.config,
        "metadata": dict(manifest.metadata),
        "file_sizes": dict(manifest.file_sizes),
    }
    payload: bytes = msgpack.packb(values)
    return _HEAD.pack(_MAGIC, _FORMAT, len(payload), hashlib.sha256(payload).digest()) + payload


def decode(raw: bytes) -> Manifest:
    """Bytes back to a manifest; what follows its length is ignored.

    Raises CorruptMetadataError, or UnknownFormatError when another version wrote it.
    """
    if len(raw) < _HEAD.size:
        raise CorruptMetadataError("the session's manifest is cut off")
    magic, format_, length, digest = _HEAD.unpack_from(raw)
    if magic != _MAGIC:
        raise CorruptMetadataError("the session holds no manifest of ours")
    if format_ != _FORMAT:
        raise UnknownFormatError(
            f"the session's manifest has format {format_}, this version reads {_FORMAT}",
            hint="use the version of guestmemfs-fuse that preserved it, or a newer one",
        )
    payload = raw[_HEAD.size : _HEAD.size + length]
    if len(payload) != length or hashlib.sha256(payload).digest() != digest:
        raise CorruptMetadataError("the session's manifest does not have its checksum")
    values: dict[str, Any] = msgpack.unpackb(payload, strict_map_key=False)
    return Manifest(**values)


def check_file(manifest: Manifest, ino: int, size_bytes: int) -> None:
    """Raise CorruptMetadataError unless a retrieved file has the size it was preserved with."""
    wanted = manifest.file_sizes[ino]
    if size_bytes != wanted:
        raise CorruptMetadataError(f"the file of inode {ino} came back with {size_bytes} bytes, not {wanted}")


def check_state(manifest: Manifest, name: str, region_uuid: UUID, state: State) -> None:
    """Raise MetadataError unless the metadata that came along is of this instance and of that moment.

    region_uuid: of the configuration. Every regular file must have come along, with the size it has in the
    metadata.
    """
    if manifest.name != name or manifest.uuid_hex != region_uuid.hex:
        raise ForeignMetadataError(f"the session is of instance {manifest.name}, {manifest.uuid_hex}")
    if state.generation != manifest.generation:
        raise CorruptMetadataError(
            f"the metadata is of generation {state.generation}, the session of {manifest.generation}"
        )
    sizes = {int(inode.ino): inode.size_bytes for inode in state.inodes.values() if inode.is_file}
    if missing := sorted(sizes.keys() - manifest.file_sizes.keys()):
        raise CorruptMetadataError(f"files are missing in the session: inodes {missing[:5]}")
    for ino, size_bytes in sizes.items():
        if manifest.file_sizes[ino] != size_bytes:
            raise CorruptMetadataError(
                f"inode {ino} has {size_bytes} bytes, was preserved with {manifest.file_sizes[ino]}"
            )
