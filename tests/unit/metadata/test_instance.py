"""The registry finds instances by name, mountpoint and path, and a configuration survives its file."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guestmemfs_fuse.core.errors import (
    InstanceBusyError,
    MetadataError,
    UnknownFormatError,
    UnknownTargetError,
    UsageError,
)
from guestmemfs_fuse.metadata import instance
from guestmemfs_fuse.metadata.instance import BrokenInstance, Instance, InstanceConfig, Paths

CONFIG = InstanceConfig(
    name="ram",
    uuid_hex="0123456789abcdef" * 2,
    mountpoint="/mnt/ram",
    kind="tmpfs",
    size_bytes=1 << 30,
    block_bytes=2 << 20,
    boot_id="b2f1d1a4-0000-4000-8000-000000000000",
    created_ns=1_700_000_000_000_000_000,
    numa_node=0,
)


@pytest.fixture(autouse=True)
def run_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    run = tmp_path / "run"
    monkeypatch.setenv("GUESTMEMFS_RUN_DIR", str(run))
    return run


def make(name: str, mountpoint: Path, state_dir: Path | None = None) -> Paths:
    paths = instance.register(name, None if state_dir is None else str(state_dir))
    replace(CONFIG, name=name, mountpoint=str(mountpoint)).save(paths.state_dir)
    return paths


# -- configuration ---------------------------------------------------------------------------------------


def test_a_saved_configuration_is_loaded_equal_and_private(tmp_path: Path) -> None:
    CONFIG.save(str(tmp_path))
    assert InstanceConfig.load(str(tmp_path)) == CONFIG
    assert sorted(os.listdir(tmp_path)) == ["instance.json"]
    assert (tmp_path / "instance.json").stat().st_mode & 0o777 == 0o600


def test_saving_again_replaces_the_file_and_never_writes_into_it(tmp_path: Path) -> None:
    CONFIG.save(str(tmp_path))
    with open(tmp_path / "instance.json", encoding="utf-8") as before:
        replace(CONFIG, size_bytes=4 << 30).save(str(tmp_path))
        assert json.load(before)["size_bytes"] == CONFIG.size_bytes
    assert InstanceConfig.load(str(tmp_path)).size_bytes == 4 << 30


@pytest.mark.parametrize(
    "change",
    [
        {"size_bytes": 0},
        {"size_bytes": True},
        {"block_bytes": "2M"},
        {"kind": "floppy"},
        {"huge": "maybe"},
        {"name": "../x"},
        {"mountpoint": "mnt"},
        {"uuid_hex": "12"},
        {"numa_node": -1},
        {"dax_dir": "pmem"},
        {"options": []},
        {"colour": "red"},
        {"boot_id": ""},
    ],
)
def test_an_implausible_configuration_is_refused_with_the_file_and_the_setting(
    tmp_path: Path, change: dict[str, object]
) -> None:
    CONFIG.save(str(tmp_path))
    file = tmp_path / "instance.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(MetadataError, match=str(file)) as caught:
        InstanceConfig.load(str(tmp_path))
    assert next(iter(change)) in caught.value.message


def test_a_missing_setting_is_refused_by_name(tmp_path: Path) -> None:
    CONFIG.save(str(tmp_path))
    file = tmp_path / "instance.json"
    values = json.loads(file.read_text())
    del values["boot_id"]
    file.write_text(json.dumps(values))
    with pytest.raises(MetadataError, match="boot_id"):
        InstanceConfig.load(str(tmp_path))


@pytest.mark.parametrize("text", ["", "{", "[]", "\x00", "\xff"])
def test_a_damaged_configuration_is_refused_with_the_file(tmp_path: Path, text: str) -> None:
    file = tmp_path / "instance.json"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(MetadataError, match=str(file)):
        InstanceConfig.load(str(tmp_path))


def test_another_format_is_refused_as_such(tmp_path: Path) -> None:
    replace(CONFIG, format=2).save(str(tmp_path))
    with pytest.raises(UnknownFormatError, match="format 2"):
        InstanceConfig.load(str(tmp_path))


# -- names -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mountpoint", "name"),
    [
        ("/mnt/ram", "mnt-ram"),
        ("/mnt/guest-ram/", "mnt-guest--ram"),
        ("/mnt/guest_ram.0", "mnt-guest_ram.0"),
        ("/", "root"),
        ("/.hidden", "+2ehidden"),
        ("/-x", "+2dx"),
        ("/a b", "a+20b"),
    ],
)
def test_default_names_are_readable(mountpoint: str, name: str) -> None:
    assert instance.default_name(mountpoint) == name


@given(st.lists(st.text(st.characters(exclude_characters="/\0"), min_size=1), min_size=1))
def test_a_default_name_is_always_valid(parts: list[str]) -> None:
    try:
        mountpoint = "/" + "/".join(parts)
        os.fsencode(mountpoint)
    except UnicodeEncodeError:
        return
    assert instance.valid_name(instance.default_name(mountpoint))


@pytest.mark.parametrize("name", ["", ".", "..", "-x", "a/b", "a b", "x" * 64, "ä", "a\n", "run\0"])
def test_bad_names_are_refused(name: str) -> None:
    assert not instance.valid_name(name)
    with pytest.raises(UsageError):
        instance.state_dir_of(name)


# -- registry --------------------------------------------------------------------------------------------


def test_an_instance_is_found_by_name_and_by_mountpoint_however_spelled(tmp_path: Path) -> None:
    (tmp_path / "mnt").mkdir()
    (tmp_path / "link").symlink_to("mnt")
    (tmp_path / "direct").symlink_to(tmp_path / "mnt" / "ram")
    make("ram", tmp_path / "mnt" / "ram")
    for target in ("ram", f"{tmp_path}/mnt/ram", f"{tmp_path}/mnt/ram/", f"{tmp_path}/link/ram"):
        assert instance.find(target).name == "ram"
    assert instance.find(f"{tmp_path}/link/../link/./ram").name == "ram"
    assert instance.find(f"{tmp_path}/direct").name == "ram"


def test_a_relative_target_is_taken_from_the_current_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mnt").mkdir()
    make("x", tmp_path / "mnt" / "ram")
    monkeypatch.chdir(tmp_path / "mnt")
    assert instance.find("ram").name == "x"


def test_a_name_wins_over_a_mountpoint_of_the_same_spelling(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make("ram", tmp_path / "elsewhere")
    make("other", tmp_path / "ram")
    monkeypatch.chdir(tmp_path)
    assert instance.find("ram").name == "ram"
    assert instance.find("./ram").name == "other"


def test_a_path_below_a_mountpoint_is_no_target(tmp_path: Path) -> None:
    make("ram", tmp_path / "ram")
    with pytest.raises(UnknownTargetError, match=r"ram/file"):
        instance.find(f"{tmp_path}/ram/file")


def test_the_mountpoint_is_never_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """readlink is the one call allowed, and below the mountpoint not even that."""
    mountpoint = tmp_path / "ram"
    make("ram", mountpoint)
    touched: list[str] = []

    def spy(path: str) -> str:
        touched.append(path)
        raise OSError

    for call in ("stat", "lstat", "scandir"):
        original = getattr(os, call)

        def guard(path: object, *rest: object, _original=original, **named: object) -> object:  # type: ignore[no-untyped-def]
            assert not str(path).startswith(str(mountpoint))
            return _original(path, *rest, **named)

        monkeypatch.setattr(os, call, guard)
    monkeypatch.setattr(os, "readlink", spy)
    assert instance.find(str(mountpoint)).name == "ram"
    assert instance.instance_of_path(f"{mountpoint}/a/b")[1] == "a/b"
    assert not [each for each in touched if each.startswith(str(mountpoint))]


def test_a_path_belongs_to_the_longest_mountpoint(tmp_path: Path) -> None:
    make("outer", tmp_path / "a")
    make("inner", tmp_path / "a" / "b")
    make("beside", tmp_path / "a" / "bc")
    found = {
        below: (inst.name, rest)
        for below in ("a", "a/x/y", "a/b", "a/b/x", "a/bc/x", "a/bcd", "a/b/../q")
        for inst, rest in [instance.instance_of_path(f"{tmp_path}/{below}")]
    }
    assert found == {
        "a": ("outer", ""),
        "a/x/y": ("outer", "x/y"),
        "a/b": ("inner", ""),
        "a/b/x": ("inner", "x"),
        "a/bc/x": ("beside", "x"),
        "a/bcd": ("outer", "bcd"),
        "a/b/../q": ("outer", "q"),
    }
    with pytest.raises(UnknownTargetError):
        instance.instance_of_path(str(tmp_path / "ab"))


def test_a_circle_of_symlinks_ends(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(UnknownTargetError):
        instance.find(f"{tmp_path}/a/x")


def test_a_state_dir_elsewhere_is_linked_and_stays_the_users(tmp_path: Path, run_dir: Path) -> None:
    elsewhere = tmp_path / "state"
    elsewhere.mkdir()
    (elsewhere / "notes").write_text("mine")
    paths = make("ram", tmp_path / "m", elsewhere)
    assert paths.state_dir == str(elsewhere) == instance.state_dir_of("ram")
    assert instance.register("ram", str(elsewhere)) == instance.register("ram") == paths
    assert instance.find("ram").paths == paths
    with pytest.raises(UsageError, match="already has its state"):
        instance.register("ram", str(tmp_path / "third"))
    assert not (tmp_path / "third").exists()
    instance.forget("ram")
    assert os.listdir(elsewhere) == ["notes"]
    assert not os.path.lexists(run_dir / "ram")


def test_registering_makes_a_private_directory_and_forgetting_leaves_nothing(
    tmp_path: Path, run_dir: Path
) -> None:
    paths = make("ram", tmp_path / "m")
    assert os.stat(paths.state_dir).st_mode & 0o777 == 0o700
    for file in paths.small_files():
        Path(file).touch()
    os.mkdir(paths.region)
    instance.forget("ram")
    instance.forget("ram")
    assert os.listdir(run_dir) == []


def test_forgetting_is_refused_while_the_region_holds_something(tmp_path: Path) -> None:
    paths = make("ram", tmp_path / "m")
    os.mkdir(paths.region)
    Path(paths.region, "0001").touch()
    with pytest.raises(InstanceBusyError, match="region"):
        instance.forget("ram")
    assert instance.find("ram").config.mountpoint == str(tmp_path / "m")


def test_everything_registered_is_listed_also_what_is_broken(tmp_path: Path, run_dir: Path) -> None:
    assert instance.all_instances() == []
    make("good", tmp_path / "m")
    instance.register("empty")
    gone = tmp_path / "gone"
    make("dangling", tmp_path / "n", gone)
    os.unlink(gone / "instance.json")
    gone.rmdir()
    (run_dir / "stray-file").touch()
    (run_dir / ".hidden").mkdir()
    found = {each.name: type(each) for each in instance.all_instances()}
    assert found == {"dangling": BrokenInstance, "empty": BrokenInstance, "good": Instance}
    with pytest.raises(MetadataError, match=r"empty/instance\.json"):
        instance.find("empty")


def test_an_instance_that_is_destroyed_meanwhile_is_not_listed(
    tmp_path: Path, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make("stays", tmp_path / "m")
    monkeypatch.setattr(os, "listdir", lambda path: ["goes", "stays"])
    assert [each.name for each in instance.all_instances()] == ["stays"]


def test_an_unknown_target_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnknownTargetError, match="no instance nowhere"):
        instance.find("nowhere")


def test_regression_a_path_that_leads_out_of_a_mount_again_is_followed(tmp_path: Path) -> None:
    """What came after `..` was taken as it stood: a link there was in no instance."""
    (tmp_path / "link").symlink_to("mnt")
    mountpoint = f"{tmp_path}/mnt"
    for path in ("link/../link/ram", "mnt/a/../../link/ram", "mnt/ram/../../mnt/ram", "mnt/../mnt/./ram"):
        assert instance.resolve_path(f"{tmp_path}/{path}", {mountpoint}) == f"{mountpoint}/ram"
    assert instance.resolve_path(f"{tmp_path}/mnt/../mnt2", {mountpoint}) == f"{mountpoint}2"


def test_regression_an_empty_path_is_not_the_working_directory() -> None:
    """`mount "$DIR"` without DIR mounted over it."""
    with pytest.raises(UsageError, match="an empty path"):
        instance.resolve_path("")
    with pytest.raises(UsageError, match="an empty path"):
        instance.find("")
