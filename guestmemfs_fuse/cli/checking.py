"""Which way an instance is checked, and what came of it. Called by cli/fsck.

A daemon that serves is asked; the metadata files are read here all the same, so that damage on disk is known
before the next start depends on them. Without a daemon everything is done here, under the instance's lock.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any, Final
from uuid import UUID

from guestmemfs_fuse.cli import progress, survey
from guestmemfs_fuse.cli.daemons import RESTART_WAIT_S, ask
from guestmemfs_fuse.cli.sight import Condition
from guestmemfs_fuse.core.errors import DaemonError, GuestmemfsError, MetadataError
from guestmemfs_fuse.engine import fsck_metadata, fsck_offline
from guestmemfs_fuse.engine.fsck import Checked, Finding, Result
from guestmemfs_fuse.handover.fdstore import Notifier
from guestmemfs_fuse.metadata import instance as registry
from guestmemfs_fuse.metadata.files import DirectoryFiles
from guestmemfs_fuse.metadata.instance import Instance
from guestmemfs_fuse.region import choose

_LOOK_AGAIN_S: Final = 0.1
_ON_THE_MOVE: Final = frozenset({"leftover-file", "torn-tail"})
"""What a daemon that writes at this moment looks like from outside."""


@dataclass(frozen=True, slots=True)
class Report:
    """plain: the documented JSON object; advice: what to do about what is left."""

    plain: dict[str, Any]
    advice: str | None = None


def check(target: str, *, repair: bool) -> Report:
    """Check one instance. Raises GuestmemfsError or OSError when that is not possible."""
    try:
        instance = registry.find(target)
    except MetadataError as error:
        return _broken(target, error)
    found = survey.examine(instance, wait_s=RESTART_WAIT_S)
    if found.condition in (Condition.SERVING, Condition.FROZEN):
        return _online(instance, repair=repair)
    if found.condition in (Condition.SILENT, Condition.RESTARTING):
        raise DaemonError("the daemon does not answer", hint=f"`guestmemfs restart {instance.name}`")
    if found.condition is Condition.LOST:
        raise GuestmemfsError(f"instance {instance.name} has no memory any more", hint=found.advice)
    with progress.bar("checking") as tick:
        done = fsck_offline.run(instance.config, instance.paths, Notifier(None), repair=repair, tick=tick)
    return Report(_plain(instance.name, "offline", done.as_plain()), _advice(done, repair=repair))


def _online(instance: Instance, *, repair: bool) -> Report:
    with progress.bar("checking") as tick:
        told = ask(
            instance,
            "fsck",
            {"repair": repair},
            wait_s=RESTART_WAIT_S,
            timeout_s=None,
            on_event=progress.on_event(tick),
        )
    on_disk = [asdict(finding) for finding in _metadata_files(instance)]
    told["problems"] = on_disk + told["problems"]
    told["clean"] = not told["problems"]
    advice = "`guestmemfs umount`, then fsck --repair, mends more" if repair else "--repair mends what it can"
    return Report(_plain(instance.name, "online", told), advice)


def _metadata_files(instance: Instance) -> list[Finding]:
    """Damage on disk. Looks twice, because a daemon writes meanwhile."""
    found = _inspect(instance)
    if any(finding.kind in _ON_THE_MOVE for finding in found):
        time.sleep(_LOOK_AGAIN_S)
        again = _inspect(instance)
        found = [finding for finding in again if finding.kind not in _ON_THE_MOVE or finding in found]
    return [finding for finding in found if finding.kind != "leftover-file"]


def _inspect(instance: Instance) -> list[Finding]:
    files = DirectoryFiles(choose.metadata_path(instance.config, instance.paths))
    try:
        uuid = UUID(instance.config.uuid_hex)
        return fsck_metadata.inspect(files, uuid, region_holds_data=True).findings
    finally:
        files.close()


def _broken(target: str, error: MetadataError) -> Report:
    """An instance whose configuration is refused: that is a finding, and not one to be guessed right."""
    if registry.broken(target) is None:
        raise error
    finding = Finding("damaged-config", None, error.message)
    plain = Result((finding,), Checked()).as_plain()
    return Report(_plain(target, "offline", plain), error.hint)


def _plain(name: str, mode: str, result: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "mode": mode, **result}


def _advice(done: Result, *, repair: bool) -> str | None:
    kinds = {finding.kind for finding in done.unrepaired}
    if "foreign-metadata" in kinds:
        return "take the foreign file away by hand; nothing was changed"
    if "unknown-format" in kinds:
        return "use the version of guestmemfs-fuse that wrote it; nothing was changed"
    return None if repair else "--repair mends what it can"
