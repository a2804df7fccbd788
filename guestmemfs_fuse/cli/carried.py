"""A unit's first start after a kexec: what systemd carried for it, if it did. Called by unit_start.

systemd 261 and later take the fd store of units with FileDescriptorStorePreserve= through a kexec, whether
`guestmemfs liveupdate preserve` was said before or not. Without it there are files but no metadata: nobody
can say any more what is in them.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping

from guestmemfs_fuse.cli.claim import claimed_anew
from guestmemfs_fuse.cli.output import say
from guestmemfs_fuse.handover import fdnames, fdstore
from guestmemfs_fuse.handover.fdstore import Notifier
from guestmemfs_fuse.metadata import instance as registry
from guestmemfs_fuse.metadata.instance_config import InstanceConfig

Fds = Mapping[str, list[int]]


def settle(name: str, state_dir: str | None, received: Fds, environ: MutableMapping[str, str]) -> bool:
    """Make an instance of what came through a kexec; whether there was one.

    received: what systemd gave this process, by name; environ: passed on to the daemon it becomes. Raises
    MetadataError when what came through is not whole.
    """
    if not any(each == fdnames.CARRIED or each.startswith(fdnames.REGION_PREFIX) for each in received):
        return False
    from guestmemfs_fuse.handover import luo_carried

    store = Notifier.from_environment(environ)
    with claimed_anew(lambda: registry.register(name, state_dir)) as claim:
        paths = claim.paths
        if _is_here(paths.state_dir):
            if luo_carried.is_history(received):  # the start that made the instance did not get so far
                luo_carried.let_go_of_manifest(store)
            return False
        if fdnames.CARRIED not in received:
            if count := luo_carried.let_go_of_strangers(received, store):
                say(
                    f"note: {count} files of instance {name} came through the kexec without metadata:"
                    f" starting empty (before the next one, `guestmemfs liveupdate preserve {name}`)"
                )
            return False
        made = luo_carried.take_over(name, paths, received, store)
        luo_carried.let_go_of_manifest(store)
    # The claim has a descriptor too, which must not be where the next one is to be.
    for each, fds in made.items():
        for fd in fds:
            fdstore.pass_on(environ, each, fd)
    say(f"note: instance {name} came through the kexec")
    return True


def _is_here(state_dir: str) -> bool:
    try:
        return InstanceConfig.load(state_dir).boot_id == registry.current_boot_id()
    except FileNotFoundError:
        return False
