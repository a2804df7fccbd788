"""After the kexec: configuration and metadata out of a manifest, and the pages of files made huge again.

The same whether a session of ours brought the files (luo_retrieve) or systemd did (luo_carried). Whoever
calls keeps the files' descriptors, and lets go of nothing before instance.json is written: that makes it an
instance.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import replace
from uuid import UUID

from guestmemfs_fuse.core import commands as cmd
from guestmemfs_fuse.core.errors import ForeignMetadataError
from guestmemfs_fuse.core.types import Ino
from guestmemfs_fuse.engine.ledger import Ledger
from guestmemfs_fuse.handover import luo
from guestmemfs_fuse.handover.luo import Manifest
from guestmemfs_fuse.linux import collapse
from guestmemfs_fuse.metadata import store as metadata
from guestmemfs_fuse.metadata.files import DirectoryFiles
from guestmemfs_fuse.metadata.instance_config import InstanceConfig, Paths, current_boot_id

log = logging.getLogger("guestmemfs")


def read_manifest(fd: int) -> Manifest:
    """The manifest in a file. Raises MetadataError (luo.decode)."""
    return luo.decode(os.pread(fd, os.fstat(fd).st_size, 0))


def unpack(manifest: Manifest, name: str, paths: Paths) -> InstanceConfig:
    """Lay the metadata out, and return the configuration; both checked, the latter not written yet.

    Raises MetadataError when the manifest is not of the instance called name, or not whole.
    """
    config = _configuration(manifest, paths)
    _write_metadata(manifest, paths)
    files = DirectoryFiles(paths.metadata)
    try:
        uuid = UUID(config.uuid_hex)
        opened = metadata.Store.open(files, uuid)
        luo.check_state(manifest, name, uuid, opened.state)
        if manifest.thaw:
            Ledger(opened.state, opened.store).commit(cmd.Freeze(False))
        opened.store.close(opened.state)
    finally:
        files.close()
    # Its memory is of this boot now.
    return replace(config, boot_id=current_boot_id())


def make_huge(files: Mapping[Ino, int]) -> None:
    """Give the pages of the files back their size; those that refuse stay small, and that is logged."""
    for ino, fd in files.items():
        try:
            collapse.collapse_data(fd, os.fstat(fd).st_size)
        except OSError as error:
            log.warning("inode %d stays in small pages: %s", ino, error)


def _configuration(manifest: Manifest, paths: Paths) -> InstanceConfig:
    """Parsed where it cannot be taken for the instance's yet."""
    if os.path.exists(paths.config):
        there = InstanceConfig.load(paths.state_dir)
        if there.uuid_hex != manifest.uuid_hex:
            raise ForeignMetadataError(
                f"{paths.config} is of another instance {there.name}",
                hint="mount the one that came through the kexec with another --state-dir",
            )
    os.makedirs(paths.metadata, mode=0o700, exist_ok=True)
    aside = Paths(paths.metadata).config
    _write(aside, manifest.config)
    try:
        return InstanceConfig.load(paths.metadata)
    finally:
        os.unlink(aside)


def _write_metadata(manifest: Manifest, paths: Paths) -> None:
    for name in os.listdir(paths.metadata):
        os.unlink(os.path.join(paths.metadata, name))
    for name, content in manifest.metadata.items():
        if os.path.basename(name) != name:
            raise ForeignMetadataError(f"the session holds metadata with the name {name!r}")
        _write(os.path.join(paths.metadata, name), content)


def _write(path: str, content: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(content)
