"""`guestmemfs run`: small programs map files of a hugetlb region, in every way a program can map a file.

The region is a real hugetlbfs; the FUSE mount is played by a tmpfs and the daemon by a table (tests/zoo).
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.zoo.rig import PAGE_BYTES, Build, FakeMount

pytest_plugins = ("tests.zoo.fixtures",)

SCATTERED = ((8, 2), (1, 1), (12, 3))
SCATTERED_PAGES = (8, 9, 1, 12, 13, 14)


def tags(*pages: int) -> str:
    return " ".join(f"page{page:04d}" for page in pages)


def succeeded(done: subprocess.CompletedProcess[str], output: str) -> None:
    assert (done.stderr, done.stdout, done.returncode) == ("", output, 0)


@pytest.mark.parametrize("options", [(), ("-static",)], ids=["dynamic", "static"])
def test_a_contiguous_file_is_one_mapping_of_the_region(
    region: FakeMount, zoo: Build, options: tuple[str, ...]
) -> None:
    file = region.file("ram", (3, 4))
    done = region.run(zoo("mapper", *options), file, 0, 4 * PAGE_BYTES)
    succeeded(done, f"mapped aligned 1 {tags(3, 4, 5, 6)}\n")


@pytest.mark.parametrize(
    ("first", "count", "vmas"), [(0, 6, 3), (1, 4, 3), (2, 1, 1), (3, 3, 1), (5, 1, 1), (0, 3, 2)]
)
def test_an_offset_into_scattered_extents_gives_the_right_pages(
    region: FakeMount, zoo: Build, first: int, count: int, vmas: int
) -> None:
    file = region.file("ram", *SCATTERED)
    done = region.run(zoo("mapper"), file, first * PAGE_BYTES, count * PAGE_BYTES)
    succeeded(done, f"mapped aligned {vmas} {tags(*SCATTERED_PAGES[first : first + count])}\n")


def test_extents_that_touch_in_the_region_are_mapped_as_one(region: FakeMount, zoo: Build) -> None:
    file = region.file("ram", (4, 2), (6, 2))
    done = region.run(zoo("mapper"), file, 0, 4 * PAGE_BYTES)
    succeeded(done, f"mapped aligned 1 {tags(4, 5, 6, 7)}\n")


@pytest.mark.parametrize("flags", ["w", "wp"], ids=["shared", "private-made-shared"])
def test_what_a_program_writes_is_in_the_region(region: FakeMount, zoo: Build, flags: str) -> None:
    file = region.file("ram", *SCATTERED)
    done = region.run(zoo("mapper"), flags, file, 0, 6 * PAGE_BYTES)
    succeeded(done, "mapped aligned 3" + " page!wr!" * 6 + "\n")
    written = [number for number in range(region.pages) if region.page(number) == b"page!wr!"]
    assert written == sorted(SCATTERED_PAGES)


def test_no_share_leaves_a_private_mapping_private(roomy_region: FakeMount, zoo: Build) -> None:
    file = roomy_region.file("ram", (3, 2))
    done = roomy_region.run(zoo("mapper"), "wp", file, 0, 2 * PAGE_BYTES, options=["--no-share"])
    succeeded(done, "mapped aligned 1 page!wr! page!wr!\n")
    assert [roomy_region.page(3), roomy_region.page(4)] == [b"page0003", b"page0004"]


def test_reading_privately_needs_no_second_set_of_pages(region: FakeMount, zoo: Build) -> None:
    file = region.file("ram", *SCATTERED)
    done = region.run(zoo("mapper"), "p", file, 0, 6 * PAGE_BYTES)
    succeeded(done, f"mapped aligned 3 {tags(*SCATTERED_PAGES)}\n")


def test_map_fixed_goes_where_it_is_told(region: FakeMount, zoo: Build) -> None:
    file = region.file("ram", *SCATTERED)
    done = region.run(zoo("mapper"), "f", file, 0, 6 * PAGE_BYTES)
    succeeded(done, f"mapped aligned 3 {tags(*SCATTERED_PAGES)}\n")


@pytest.mark.parametrize("flags", ["r", "rw", "rf"])
def test_the_call_changes_no_register_descriptor_or_signal_mask(
    region: FakeMount, zoo: Build, flags: str
) -> None:
    file = region.file("ram", *SCATTERED)
    done = region.run(zoo("mapper"), flags, file, 0, 6 * PAGE_BYTES)
    assert done.stdout.startswith("mapped aligned 3"), done.stdout
    assert done.stdout.count("\n") == 1, done.stdout


@pytest.mark.parametrize(
    ("flags", "offset", "length", "name"),
    [
        ("w", PAGE_BYTES // 2, PAGE_BYTES, "EINVAL"),
        ("w", 0, 7 * PAGE_BYTES, "EINVAL"),
        ("w", 6 * PAGE_BYTES, PAGE_BYTES, "EINVAL"),
        ("w", 0, 0, "EINVAL"),
        ("ow", 0, PAGE_BYTES, "EACCES"),
        ("ow", 0, 6 * PAGE_BYTES, "EACCES"),
        ("n", 0, PAGE_BYTES, "EEXIST"),
        ("n", 0, 6 * PAGE_BYTES, "EEXIST"),
    ],
)
def test_what_the_kernel_would_refuse_is_refused_the_same_way(
    region: FakeMount, zoo: Build, flags: str, offset: int, length: int, name: str
) -> None:
    file = region.file("ram", *SCATTERED)
    done = region.run(zoo("mapper"), flags, file, offset, length)
    assert (done.stderr, done.stdout, done.returncode) == ("", f"error {name}, 0 left\n", 1)


def test_a_length_inside_a_page_maps_the_whole_page(region: FakeMount, zoo: Build) -> None:
    file = region.file("ram", *SCATTERED)
    done = region.run(zoo("mapper"), file, 0, PAGE_BYTES + 5)
    assert done.stdout.endswith(f" {tags(8, 9)}\n")


@pytest.mark.parametrize("flags", ["w", "wf"], ids=["anywhere", "fixed"])
def test_a_mapping_that_fails_half_way_leaves_nothing(region: FakeMount, zoo: Build, flags: str) -> None:
    # the last extent is behind the end of the hugetlbfs, which has no page for it
    file = region.file("ram", (8, 2), (1, 1), (region.pages, 2))
    done = region.run(zoo("mapper"), flags, file, 0, 5 * PAGE_BYTES)
    assert (done.stdout, done.returncode) == ("error ENOMEM, 0 left\n", 1)


@pytest.mark.parametrize("flags", ["b", "a"], ids=["fork-then-map", "map-then-fork"])
def test_children_see_the_same_pages(region: FakeMount, zoo: Build, flags: str) -> None:
    file = region.file("ram", *SCATTERED)
    done = region.run(zoo("mapper"), flags, file, 0, 6 * PAGE_BYTES)
    succeeded(done, f"mapped aligned 3 {tags(*SCATTERED_PAGES)}\n")


def test_four_threads_map_at_once(region: FakeMount, zoo: Build) -> None:
    file = region.file("ram", *SCATTERED)
    done = region.run(zoo("mapper"), "t", file, 0, 6 * PAGE_BYTES)
    succeeded(done, f"mapped aligned 3 {tags(*SCATTERED_PAGES)}\n" * 4)


def test_signals_between_the_calls_of_a_mapping_harm_nothing(region: FakeMount, zoo: Build) -> None:
    file = region.file("ram", *SCATTERED)
    done = region.run(zoo("mapper"), "s", file, 0, 6 * PAGE_BYTES, options=["--keep"])
    succeeded(done, "often failed 0 wrong 0 interrupted yes\n")


def test_being_stopped_and_continued_between_the_calls_harms_nothing(region: FakeMount, zoo: Build) -> None:
    file = region.file("ram", *SCATTERED)
    child = region.start(zoo("mapper"), "s", file, 0, 6 * PAGE_BYTES, options=["--keep"])
    stops = 0
    while child.poll() is None:
        os.kill(child.pid, signal.SIGSTOP)
        os.kill(child.pid, signal.SIGCONT)
        stops += 1
        time.sleep(0.002)  # or it would hardly ever run
    assert child.communicate() == ("often failed 0 wrong 0 interrupted yes\n", "")
    assert stops > 50


@pytest.mark.parametrize("flags", ["u", "c", "uc"], ids=["other-user", "chroot", "both"])
def test_a_program_that_cannot_open_the_region_is_handed_it(
    region: FakeMount, zoo: Build, flags: str
) -> None:
    file = region.file("ram", *SCATTERED)
    done = region.run(zoo("mapper", "-static"), flags, file, 0, 6 * PAGE_BYTES)
    assert done.stdout.endswith(f" {tags(*SCATTERED_PAGES)}\n"), done.stdout + done.stderr


@pytest.mark.parametrize("how", ["v", "p"], ids=["vfork", "posix_spawn"])
def test_spawned_programs_are_followed(region: FakeMount, zoo: Build, how: str) -> None:
    file = region.file("ram", *SCATTERED)
    done = region.run(zoo("spawner"), how, zoo("mapper"), file, 0, 6 * PAGE_BYTES)
    succeeded(done, f"mapped aligned 3 {tags(*SCATTERED_PAGES)}\n")


def test_a_shell_pipeline_is_followed_and_ends(region: FakeMount, zoo: Build) -> None:
    file = region.file("ram", *SCATTERED)
    script = f"{zoo('mapper')} {file} 0 {6 * PAGE_BYTES} | tr a-z A-Z; exec {zoo('mapper')} {file} 0 1"
    done = region.run("/bin/sh", "-c", script)
    expected = f"mapped aligned 3 {tags(*SCATTERED_PAGES)}".upper()
    assert done.stdout.splitlines() == [expected, f"mapped aligned 0 {tags(8)}"]


def test_a_python_program_maps_too(region: FakeMount) -> None:
    file = region.file("ram", *SCATTERED)
    code = (
        "import mmap,sys; f=open(sys.argv[1],'r+b'); m=mmap.mmap(f.fileno(), 6<<21);"
        "print(*(m[i<<21:(i<<21)+8].decode() for i in range(6)))"
    )
    succeeded(region.run("python3", "-c", code, file), tags(*SCATTERED_PAGES) + "\n")


# -- statfs -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["file", "directory", "relative"])
def test_statfs_and_fstatfs_show_hugetlbfs_with_its_page_size(
    region: FakeMount, zoo: Build, target: str
) -> None:
    file = region.file("ram", *SCATTERED)
    plain = subprocess.run([zoo("statter"), file], check=True, capture_output=True, text=True).stdout
    total_bytes = int(plain.split()[3])
    path = {"file": file, "directory": region.directory, "relative": Path(os.path.relpath(file, "/"))}[target]
    done = region.run("/usr/bin/env", "-C", "/", zoo("statter"), path)
    rounded_bytes = total_bytes // PAGE_BYTES * PAGE_BYTES
    succeeded(done, f"958458f6 {PAGE_BYTES} {PAGE_BYTES} {rounded_bytes}\n" * 2)


def test_statfs_of_other_filesystems_is_left_alone(region: FakeMount, zoo: Build, tmp_path: Path) -> None:
    region.file("ram", *SCATTERED)
    path = tmp_path / "file"
    path.touch()
    plain = subprocess.run([zoo("statter"), path], check=True, capture_output=True, text=True).stdout
    assert region.run(zoo("statter"), path).stdout.split()[:3] == plain.split()[:3]


# -- kinds whose files have a backing file --------------------------------------------------------------


def passthrough(path: str | None) -> dict[str, object]:
    return {
        "kind": "tmpfs",
        "page_bytes": PAGE_BYTES,
        "passthrough": path is None,
        "path": path,
        "size_bytes": PAGE_BYTES,
        "segments": [[0, 0, PAGE_BYTES]],
    }


@pytest.mark.parametrize(
    ("options", "tag"), [((), b"page!wr!"), (("--no-share",), b"page0000")], ids=["share", "no-share"]
)
def test_with_passthrough_only_the_private_mapping_changes(
    region: FakeMount, zoo: Build, options: tuple[str, ...], tag: bytes
) -> None:
    region.kind = "tmpfs"
    file = region.plain_file("ram", passthrough(None), size_bytes=PAGE_BYTES)
    with open(file, "r+b") as opened:
        opened.write(b"page0000")
    done = region.run(zoo("mapper"), "wp", file, 0, PAGE_BYTES, options=options)
    assert done.stdout.endswith(" page!wr!\n")
    assert file.read_bytes()[:8] == tag
    assert not region.run(zoo("statter"), file).stdout.startswith("958458f6")


def test_without_passthrough_the_backing_file_is_mapped_at_the_same_offsets(
    region: FakeMount, zoo: Build, private_dir: Path
) -> None:
    region.kind = "tmpfs"
    backing = private_dir / "backing"
    backing.write_bytes(bytes(4096) + b"page7777" + bytes(PAGE_BYTES))
    file = region.plain_file("ram", passthrough(str(backing)), size_bytes=PAGE_BYTES)
    done = region.run(zoo("mapper"), "wp", file, 4096, 5000)
    assert done.stdout.endswith(" page!wr!\n")
    assert backing.read_bytes()[4096:4104] == b"page!wr!"


# -- when the layout cannot be had ----------------------------------------------------------------------


def test_without_a_daemon_the_mapping_fails_and_one_line_says_why(region: FakeMount, zoo: Build) -> None:
    file = region.plain_file("ram", {"error": "the daemon is not running"}, size_bytes=PAGE_BYTES)
    done = region.run(zoo("mapper"), "t", file, 0, PAGE_BYTES)
    assert done.stdout == "error ENODEV, 0 left\n" * 4
    assert done.stderr == f"guestmemfs run: {file} cannot be mapped: the daemon is not running\n"


def test_blocks_that_change_hands_during_the_mapping_are_unmapped_again(
    region: FakeMount, zoo: Build
) -> None:
    file = region.file("ram", (3, 2))
    ino = str(file.stat().st_ino)
    region.file("other", (5, 2))
    first = region.files[ino]
    region.files[ino] = [first, {**first, "segments": first["segments"][:0]}]
    done = region.run(zoo("mapper"), file, 0, 2 * PAGE_BYTES)
    assert done.stdout == "error EAGAIN, 0 left\n"
    assert "was changed while it was being mapped" in done.stderr


def test_a_region_file_that_is_gone_is_no_mapping_of_something_else(region: FakeMount, zoo: Build) -> None:
    file = region.file("ram", (3, 2))
    region.files[str(file.stat().st_ino)]["path"] = str(region.region_path.with_name("elsewhere"))
    done = region.run(zoo("mapper"), file, 0, 2 * PAGE_BYTES)
    assert (done.stdout, done.returncode) == ("error ENOENT, 0 left\n", 1)
