"""Connecting to a monitor that is not there or does not talk, and what is read out of one that does."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from guestmemfs_fuse.vm import monitor
from guestmemfs_fuse.vm.errors import MonitorError
from guestmemfs_fuse.vm.monitor import Abilities, Version
from tests.unit.vm.fake_qemu import FakeQemu

GREETING = {"QMP": {"version": {"qemu": {"major": 7, "minor": 2, "micro": 22}}, "capabilities": []}}


@pytest.fixture
def listener(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    monkeypatch.chdir(tmp_path)  # socket addresses are short, pytest's directories are not
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind("qmp.sock")
        sock.listen(1)
        yield sock


def serve(listener: socket.socket, answers: dict[str, dict[str, Any] | None]) -> threading.Thread:
    """A monitor in a thread: greets, answers each command as told, hangs up on None."""

    known: dict[str, dict[str, Any] | None] = {"qmp_capabilities": {"return": {}}, **answers}

    def talk() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.sendall(json.dumps(GREETING).encode() + b"\n")
            # qemu.qmp ends no request with a newline, and waits for each answer: one read is one request.
            while raw := connection.recv(65536):
                request = json.loads(raw)
                answer = known[request["execute"]]
                if answer is None:
                    return
                connection.sendall(json.dumps({**answer, "id": request.get("id")}).encode() + b"\n")

    thread = threading.Thread(target=talk)
    thread.start()
    return thread


def execute(command: str) -> Any:
    async def talk() -> Any:
        async with monitor.connect(Path("qmp.sock")) as connected:
            assert connected.pid == os.getpid()
            return await connected.execute(command)

    return asyncio.run(talk())


def test_a_command_returns_what_the_vmm_returned(listener: socket.socket) -> None:
    thread = serve(listener, {"query-status": {"return": {"status": "running"}}})
    assert execute("query-status") == {"status": "running"}
    thread.join()


def test_a_refused_command_carries_the_vmms_words(listener: socket.socket) -> None:
    error = {"error": {"class": "GenericError", "desc": "Not now"}}
    thread = serve(listener, {"cont": error})
    with pytest.raises(MonitorError, match="refused cont: Not now"):
        execute("cont")
    thread.join()


def test_a_vmm_that_hangs_up_is_an_error_not_a_hang(listener: socket.socket) -> None:
    thread = serve(listener, {"cont": None})
    with pytest.raises(MonitorError, match="hung up during cont"):
        execute("cont")
    thread.join()


def test_a_monitor_that_is_taken_is_told_from_one_that_is_absent(listener: socket.socket) -> None:
    async def connect(path: str) -> None:
        async with monitor.connect(Path(path), timeout_s=0.05):
            pytest.fail("nobody greeted")

    with pytest.raises(MonitorError, match="no greeting") as taken:
        asyncio.run(connect("qmp.sock"))  # it accepts, by its backlog, and says nothing
    assert "one client at a time" in (taken.value.hint or "")
    with pytest.raises(MonitorError, match=r"cannot connect.*No such file"):
        asyncio.run(connect("nothing.sock"))


@pytest.mark.parametrize("is_new", [False, True])
def test_abilities_are_found_by_name_never_by_version(tmp_path: Path, is_new: bool) -> None:
    qemu = FakeQemu(tmp_path / "ram", is_new=is_new)
    try:
        found = asyncio.run(monitor.probe(qemu))
    finally:
        qemu.end()
    assert found == Abilities(Version(7, 2, 22), ignore_shared=True, cpr_reboot=is_new, file_uri=is_new)


def test_keyword_names_become_qmps() -> None:
    assert monitor.qmp_arguments({"max_bandwidth": 0, "uri": "x"}) == {"max-bandwidth": 0, "uri": "x"}
