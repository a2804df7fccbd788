"""The format on disk: docs/format.md says what is true, and every version ever written is still read."""

from __future__ import annotations

import re
import shutil
from dataclasses import fields
from pathlib import Path

import pytest

from guestmemfs_fuse.core import records as rec
from guestmemfs_fuse.core.types import BackingId, Ino, Unique
from guestmemfs_fuse.metadata import codec, framing, store
from guestmemfs_fuse.metadata.files import DirectoryFiles
from guestmemfs_fuse.metadata.framing import FORMAT_VERSION, Clean, FileHeader, FileKind, FrameReader
from guestmemfs_fuse.metadata.store import Store
from tests.unit.metadata.golden import make
from tests.unit.metadata.workload import REGION

DOCUMENT = (Path(__file__).parents[3] / "docs" / "format.md").read_text()
GOLDEN = Path(make.__file__).parent


# -- the document ------------------------------------------------------------------------------------


def example() -> bytes:
    """The bytes of the worked example: the hex digits at the start of each line."""
    (block,) = re.findall(r"```hex\n(.*?)```", DOCUMENT, re.DOTALL)
    lines = (re.match(r"((?:[0-9a-f]{2} )*[0-9a-f]{2})?(?:  |$)", line) for line in block.splitlines())
    return b"".join(bytes.fromhex(match[1] or "") for match in lines if match)


def test_the_worked_example_is_what_the_code_writes() -> None:
    header = FileHeader(FileKind.JOURNAL, REGION, 1, 0x1122334455667788)
    at_ns = 1_700_000_000_123_456_789
    ino = Ino(2)
    transactions = [
        rec.Transaction(
            (rec.Made(Ino(1), b"ram", ino, 0o100600, 0, 0, 0, b"", at_ns),), origin=Unique(42), ino=ino
        ),
        rec.Transaction((rec.Resized(ino, 1 << 30, 0, at_ns + 1),), origin=Unique(44), ino=ino),
    ]
    packed = framing.pack_header(header)
    for sequence, transaction in enumerate(transactions, 1):
        packed += framing.pack_frame(framing.seed_of(packed), sequence, codec.encode(transaction))
    assert example() == packed
    reader = FrameReader(example(), 1, "the example")
    assert [codec.decode(payload) for _, payload in reader] == transactions
    assert reader.ending == Clean()
    assert f"these {len(packed)} bytes" in DOCUMENT


def test_the_table_of_records_is_complete_and_true() -> None:
    rows = re.findall(r"^\| (\d+) \| ([A-Z]\w+) \| (.+?) \|$", DOCUMENT, re.MULTILINE)
    assert [(int(tag), name, tuple(listed.split(", "))) for tag, name, listed in rows] == [
        (record.TAG, record.__name__, tuple(field.name for field in fields(record)))
        for record in rec.RECORD_TYPES
    ]


def test_the_header_and_frame_tables_add_up() -> None:
    assert f"begins with {framing.HEADER_BYTES} bytes" in DOCUMENT
    assert f"format version: {FORMAT_VERSION}" in DOCUMENT
    assert f"| {framing.FRAME_HEADER_BYTES} | L | payload |" in DOCUMENT
    assert framing.PAYLOAD_MAX_BYTES == 1 << 30


# -- golden files ------------------------------------------------------------------------------------


@pytest.fixture
def golden(tmp_path: Path) -> DirectoryFiles:
    """A copy of the golden directory of version 1."""
    for file in (GOLDEN / "v1").iterdir():
        shutil.copy(file, tmp_path)
    return DirectoryFiles(tmp_path)


def test_the_golden_state_of_version_1_is_read_as_it_was_written(golden: DirectoryFiles) -> None:
    view = store.read_only_view(golden, REGION)
    assert make.described(view.state) == (GOLDEN / "v1" / "state.txt").read_text()
    assert view.sequence == len(make.made())
    assert view.report.remarks == ()
    assert view.report.frames_replayed > 0


def test_the_golden_files_hold_every_record_type(golden: DirectoryFiles) -> None:
    used = {type(record) for transaction in make.made() for record in transaction.records}
    assert used == set(rec.RECORD_TYPES)


def test_the_golden_store_goes_on(golden: DirectoryFiles) -> None:
    opened = Store.open(golden, REGION)
    opened.store.append(rec.Transaction((rec.BackingOpened(make.FILE, BackingId(9)),)))
    opened.store.close()
    assert store.read_only_view(golden, REGION).state.inodes[make.FILE].backing_id == 9


def test_the_golden_directory_is_complete() -> None:
    """Every version that is read has golden files; they are made once and never again."""
    assert {directory.name for directory in GOLDEN.glob("v*")} == {f"v{FORMAT_VERSION}"}
    names = sorted(file.name for file in (GOLDEN / "v1").iterdir())
    assert [name.partition("-")[0] for name in names] == ["journal", "journal", "snapshot", "state.txt"]
