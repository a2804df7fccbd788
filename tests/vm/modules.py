"""Which module files a kernel needs for a set of module names, in loading order.

Debian's packages come without modules.dep (their post-install script makes it), so the dependencies are read
from where depmod reads them: the `depends=` line of each module's own .modinfo section.
"""

from __future__ import annotations

import lzma
import re
import subprocess
from collections.abc import Iterable
from pathlib import Path

from .errors import VmSetupError
from .kernels import Kernel

_DEPENDS = re.compile(rb"\0depends=([^\0]*)\0")


def _canonical(name: str) -> str:
    return name.replace("-", "_")


def _name_of(path: Path | str) -> str:
    return _canonical(Path(path).name.partition(".ko")[0])


def read_module(path: Path) -> bytes:
    """The module's ELF image, uncompressed."""
    data = path.read_bytes()
    match path.suffix:
        case ".ko":
            return data
        case ".xz":
            return lzma.decompress(data)
        case ".zst":
            return subprocess.run(["zstd", "-dcq"], input=data, stdout=subprocess.PIPE, check=True).stdout
    raise VmSetupError(f"unknown module compression: {path.name}")


def depends_of(image: bytes) -> list[str]:
    """Names of the modules that the module with this ELF image needs."""
    found = _DEPENDS.search(image)
    return [name for name in found[1].decode().split(",") if name] if found else []


def load_order(kernel: Kernel, names: Iterable[str]) -> list[tuple[str, bytes]]:
    """(name, ELF image) of the modules and all they depend on, each after what it needs.

    Names that are built in are left out. Raises VmSetupError for a name the kernel does not know.
    """
    if kernel.modules_dir is None:
        return []
    files = {_name_of(path): path for path in kernel.modules_dir.rglob("*.ko*")}
    builtin = {_name_of(line) for line in (kernel.modules_dir / "modules.builtin").read_text().splitlines()}
    ordered: dict[str, bytes] = {}

    def add(name: str) -> None:
        if name in ordered or name in builtin:
            return
        if name not in files:
            raise VmSetupError(f"kernel {kernel.release} has no module {name}, built in or not")
        image = read_module(files[name])
        for needed in depends_of(image):
            add(_canonical(needed))
        ordered[name] = image

    for name in names:
        add(_canonical(name))
    return list(ordered.items())
