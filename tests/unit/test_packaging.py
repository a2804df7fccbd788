"""What is shipped: the unit as systemd sees it, the staged tree, wheel and sdist."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType

import pytest

from tests.require import require

REPOSITORY = Path(__file__).resolve().parents[2]
UNIT = "guestmemfs@.service"
WORST_EXPOSURE = 4.5
"""Of systemd-analyze security, 0 to 10. What remains is what docs/systemd.md lists as needed."""


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """DESTDIR with everything in it, as for a package."""
    destdir = tmp_path_factory.mktemp("stage")
    run_stage("--destdir", str(destdir), "--prefix", "/usr", "--systemd-version", "254")
    return destdir


def run_stage(*options: str) -> str:
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "scripts" / "stage"), *options], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_systemd_finds_nothing_wrong_with_the_unit(staged: Path, tmp_path: Path) -> None:
    require(shutil.which("systemd-analyze"), "systemd-analyze")
    # verify wants programs that exist, and pages that man finds.
    text = (staged / "lib/systemd/system" / UNIT).read_text()
    assert "ExecStart=/usr/bin/guestmemfs serve %i" in text
    text = text.replace("/usr/bin/guestmemfs", "/bin/true")
    kept = [line for line in text.splitlines() if not line.startswith("Documentation=")]
    (tmp_path / UNIT).write_text("\n".join(kept) + "\n")
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(tmp_path / UNIT)],
        capture_output=True,
        text=True,
    )
    assert (done.stderr, done.returncode) == ("", 0)


def test_the_unit_is_confined_as_far_as_it_can_be(staged: Path) -> None:
    require(shutil.which("systemd-analyze"), "systemd-analyze")
    done = subprocess.run(
        [
            "systemd-analyze",
            "security",
            "--offline=true",
            "--no-pager",
            f"--threshold={WORST_EXPOSURE * 10:.0f}",
            str(staged / "lib/systemd/system" / UNIT),
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-400:] + done.stderr
    assert "Overall exposure level" in done.stdout


def stage_module() -> ModuleType:
    """scripts/stage, which has no suffix."""
    loader = SourceFileLoader("stage", str(REPOSITORY / "scripts" / "stage"))
    module = module_from_spec(spec_from_loader("stage", loader))  # type: ignore[arg-type]
    loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("said", "number"),
    [
        ("systemd 252 (252.39-1~deb12u1)\n+PAM +AUDIT\n", 252),
        ("systemd 254 (254.26-1~bpo12+1)\n", 254),
        ("systemd 261~rc1\n", 261),
        ("", 0),
        ("systemctl: command not found\n", 0),
    ],
)
def test_the_line_that_old_systemds_do_not_know_depends_on_what_systemctl_says(
    tmp_path: Path, said: str, number: int
) -> None:
    """By scripts/stage, which understands it, and by the package's postinst, in which a shell does."""
    assert stage_module().systemd_version(said) == number
    (tmp_path / "bin").mkdir()
    (tmp_path / "said").write_text(said)
    (tmp_path / "bin/systemctl").write_text(f"#!/bin/sh\n[ $1 = --version ] && cat {tmp_path}/said\n")
    (tmp_path / "bin/systemctl").chmod(0o755)
    environ = {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "DPKG_ROOT": f"{tmp_path}/root"}
    link = tmp_path / "root/usr/lib/systemd/system/guestmemfs@.service.d/10-preserve.conf"
    for script, is_there in (("postinst", number >= 254), ("postrm", False)):
        argument = "configure" if script == "postinst" else "remove"
        done = subprocess.run(
            ["sh", REPOSITORY / "packaging" / script, argument], env=environ, capture_output=True, text=True
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert os.path.lexists(link) is is_there and link.parent.exists() is is_there
    if number >= stage_module().PRESERVES_SINCE:
        assert (REPOSITORY / "systemd" / stage_module().DROP_IN).exists()


def test_the_drop_in_is_linked_where_it_is_known(staged: Path) -> None:
    drop_in = "guestmemfs@.service.d/10-preserve.conf"
    unit = (staged / "lib/systemd/system" / UNIT).read_text()
    assert "FileDescriptorStorePreserve" not in unit
    link = staged / "lib/systemd/system" / drop_in
    target = os.readlink(link)
    assert (staged / target.lstrip("/")).read_text().endswith("FileDescriptorStorePreserve=yes\n")


def test_every_line_of_the_unit_is_explained() -> None:
    explained = (REPOSITORY / "docs" / "systemd.md").read_text()
    lines = (REPOSITORY / "systemd" / UNIT).read_text() + (
        REPOSITORY / "systemd/10-preserve.conf"
    ).read_text()
    for line in lines.splitlines():
        key = line.partition("=")[0]
        if "=" in line and not line.startswith("#") and key not in ("Description", "Documentation"):
            assert f"`{key}=" in explained, key


def test_the_staged_tree_is_complete_and_knows_nothing_of_where_it_was_made(staged: Path) -> None:
    for path in (
        "usr/lib/guestmemfs-fuse/bin/guestmemfs",
        "usr/share/man/man1/guestmemfs-mount.1",
        "usr/share/man/man8/mount.guestmemfs.8",
        "usr/share/bash-completion/completions/guestmemfs",
        "usr/share/zsh/site-functions/_guestmemfs",
        "usr/share/fish/vendor_completions.d/guestmemfs.fish",
        "usr/share/doc/guestmemfs-fuse/cli.md",
    ):
        assert (staged / path).is_file(), path
    assert os.readlink(staged / "usr/bin/guestmemfs") == "/usr/lib/guestmemfs-fuse/bin/guestmemfs"
    assert os.readlink(staged / "sbin/mount.fuse.guestmemfs").endswith("/bin/mount.guestmemfs")
    for token in (str(staged), str(REPOSITORY)):
        found = subprocess.run(["grep", "-rl", "--", token, str(staged)], capture_output=True, text=True)
        assert found.stdout == "", f"{token} is in the installed files"


def test_what_is_installed_runs_without_the_checkout_and_goes_completely(tmp_path: Path) -> None:
    dirs = ["--systemd-dir", str(tmp_path / "units"), "--sbin-dir", str(tmp_path / "sbin")]
    run_stage("--prefix", str(tmp_path / "p"), *dirs)
    program = "import guestmemfs_fuse, pyfuse3, trio; print(guestmemfs_fuse.__file__)"
    python = tmp_path / "p/lib/guestmemfs-fuse/bin/python"
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    where = subprocess.run(
        [python, "-P", "-c", program], capture_output=True, text=True, cwd="/", env=clean, check=True
    )
    assert where.stdout.startswith(str(tmp_path / "p/lib/guestmemfs-fuse"))
    for command in (["p/bin/guestmemfs", "doctor", "--help"], ["sbin/mount.guestmemfs", "-f", "a", "/b"]):
        subprocess.run([tmp_path / command[0], *command[1:]], check=True, capture_output=True, env=clean)
    for line in run_stage("--list", "--prefix", str(tmp_path / "p"), *dirs).splitlines():
        # Other systemds, other drop-ins.
        assert os.path.lexists(line) or line.endswith(".service.d"), line
        subprocess.run(["rm", "-rf", "--", line], check=True)
    assert [path for path in tmp_path.rglob("*") if not path.is_dir()] == []


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The sdist of this tree, and the wheel that pip makes of that sdist."""
    directory = tmp_path_factory.mktemp("built")
    tree, out = directory / "tree", directory / "out"
    ignored = shutil.ignore_patterns(".*", "__pycache__", "dist", "*.egg-info", "tests", "docs", "build")
    shutil.copytree(REPOSITORY, tree, ignore=ignored)
    out.mkdir()
    program = f"from setuptools import build_meta as b; b.build_sdist({str(out)!r})"
    subprocess.run([sys.executable, "-c", program], cwd=tree, capture_output=True, check=True)
    (sdist,) = out.glob("*.tar.gz")
    wheel = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--wheel-dir",
        str(out),
        str(sdist),
    ]
    done = subprocess.run(wheel, capture_output=True, text=True)
    require("No matching distribution" not in done.stderr, "a package index with setuptools")
    assert done.returncode == 0, done.stderr[-2000:]
    (found,) = out.glob("*.whl")
    return sdist, found


def test_wheel_and_sdist_are_whole(built: tuple[Path, Path]) -> None:
    sdist, wheel = built
    names = set(zipfile.ZipFile(wheel).namelist())
    wanted = {
        str(path.relative_to(REPOSITORY))
        for path in (REPOSITORY / "guestmemfs_fuse").rglob("*")
        if path.suffix == ".py" or path.name == "py.typed"
    }
    assert wanted <= names
    with tarfile.open(sdist) as archive:
        assert any(name.endswith("/pyproject.toml") for name in archive.getnames())


def test_what_pip_installs_runs_and_says_what_pip_cannot_do(built: tuple[Path, Path], tmp_path: Path) -> None:
    """In an environment of its own; the requirements, which take a compiler and minutes, are borrowed."""
    home = tmp_path / "env"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(home)], check=True)
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(home),
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
    ]
    subprocess.run([*pip, str(built[1])], check=True, capture_output=True)
    (packages,) = (home / "lib").glob("python3*/site-packages")
    borrowed = tmp_path / "borrowed"
    borrowed.mkdir()
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if "guestmemfs" not in path.name:
            (borrowed / path.name).symlink_to(path)
    (packages / "borrowed.pth").write_text(f"{borrowed}\n")
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [home / "bin" / command[0], *command[1:]], capture_output=True, text=True, env=clean, cwd="/"
        )

    where = run("python", "-c", "import guestmemfs_fuse; print(guestmemfs_fuse.__file__)")
    assert where.stdout.startswith(str(packages))
    assert run("guestmemfs", "--version").stdout.startswith("guestmemfs, version ")
    assert run("mount.guestmemfs", "-f", "vm1", "/mnt", "-o", "size=4G").returncode == 0
    refused = run("mount.guestmemfs", "-f", "vm1", "/mnt", "-o", "compress")
    assert (refused.returncode, refused.stderr.splitlines()[0]) == (
        1,
        "mount.guestmemfs: unknown option compress",
    )
    if not Path("/sbin/mount.guestmemfs").exists():
        assert (
            f"ln -s {home}/bin/mount.guestmemfs /sbin/mount.guestmemfs" in run("guestmemfs", "doctor").stdout
        )
