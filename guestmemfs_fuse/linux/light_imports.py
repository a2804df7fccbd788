"""trio and pyfuse3 without what they do at import and nobody here needs.

Importing is most of what a daemon's start costs, and callers on the mount wait for it after a crash. Two
things in it are not needed, and no option avoids them:
- trio asks ctypes.util.find_library for the library with pthread_setname_np, which runs `ldconfig -p` in a
  process of its own. Since glibc 2.34 that function is in libc itself; where it is not, trio goes without.
- pyfuse3 asks importlib.metadata for its own version, which brings the packages email, csv and zipfile.

The collector finds nothing while modules are made, so it rests meanwhile, and then leaves them alone: its
first look through them all was a tenth of the time.

Importing this module puts the stand-ins in place, `done` takes them away again; between the two nothing
but imports happens. Called by daemon.py, around its imports.
"""

from __future__ import annotations

import ctypes.util
import gc
import sys
from types import ModuleType
from typing import Final

_METADATA: Final = "importlib.metadata"
_LIBC: Final = "libc.so.6"


class _NoVersion(LookupError):
    """What pyfuse3 takes for `not installed`: it calls its version unknown then."""


def _version(distribution: str) -> str:
    raise _NoVersion(distribution)


def _metadata() -> ModuleType:
    module = ModuleType(_METADATA)
    vars(module).update(version=_version, PackageNotFoundError=_NoVersion)
    return module


_find_library = ctypes.util.find_library
_stand_in: Final = _metadata()
_collects: Final = gc.isenabled()

gc.disable()
ctypes.util.find_library = lambda name: _LIBC if name == "pthread" else _find_library(name)
sys.modules.setdefault(_METADATA, _stand_in)


def done() -> None:
    """Everything is imported: let things be as they were. Twice is harmless."""
    ctypes.util.find_library = _find_library
    if sys.modules.get(_METADATA) is _stand_in:
        del sys.modules[_METADATA]
    if _collects:
        gc.freeze()  # modules stay: the first collection would look through them all
        gc.enable()
