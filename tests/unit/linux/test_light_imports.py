"""The daemon's imports start no process, and leave nothing of the stand-ins behind."""

from __future__ import annotations

import subprocess
import sys

import pytest

WATCHED = """
import sys
started = []
sys.addaudithook(lambda event, args: started.append(event) if event in EVENTS else None)
import guestmemfs_fuse.daemon
assert not started, started
"""
EVENTS = ("subprocess.Popen", "os.fork", "os.posix_spawn", "os.exec", "os.system")
LEFT = {
    "the real importlib.metadata": "import importlib.metadata as m; assert m.version('trio')",
    "the real find_library": "import ctypes.util as u; assert u.find_library.__module__ == 'ctypes.util'",
    "the collector": "import gc; assert gc.isenabled()",
    "threads with names": "import trio._core._thread_cache as t; assert t.set_os_thread_name is not None",
}


def _python(code: str) -> None:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_importing_the_daemon_starts_no_process() -> None:
    _python(f"EVENTS = {EVENTS!r}\n{WATCHED}")


@pytest.mark.parametrize("what", LEFT)
def test_afterwards_everything_is_as_it_was(what: str) -> None:
    _python(f"import guestmemfs_fuse.daemon\n{LEFT[what]}")


def test_without_it_trio_starts_ldconfig() -> None:
    """The first test can fail; when this one does, light_imports has become superfluous."""
    with pytest.raises(AssertionError, match=r"subprocess\.Popen"):
        _python(f"EVENTS = {EVENTS!r}\n{WATCHED.replace('guestmemfs_fuse.daemon', 'trio')}")


def test_the_collector_does_not_look_through_the_modules() -> None:
    """Its first look took a tenth of a start, its last one (when the process ends) as long again."""
    _python("""
import gc
import guestmemfs_fuse.daemon
looked_at = sum(len(gc.get_objects(generation)) for generation in range(3))
assert gc.get_freeze_count() > 20_000
assert looked_at < 5_000, looked_at
""")
