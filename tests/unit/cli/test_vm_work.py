"""Signals around the work of `guestmemfs vm`: before its end they cancel it, behind it they come too late."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

_SCRIPT = """
import asyncio, os, sys
from guestmemfs_fuse.cli import vm_work

def interrupt():
    os.kill(os.getpid(), int(sys.argv[1]))

async def work(is_long):
    if is_long:
        asyncio.get_running_loop().call_soon(interrupt)
        await asyncio.Event().wait()
    return "saved"

try:
    result = vm_work.run(work(sys.argv[2] == "long"))
except KeyboardInterrupt:
    result = "undone"
else:
    interrupt()
print(result)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize(("length", "said"), [("long", "undone"), ("short", "saved")])
def test_a_signal_undoes_work_under_way_and_none_that_is_done(
    number: signal.Signals, length: str, said: str
) -> None:
    command = [sys.executable, "-c", _SCRIPT, str(int(number)), length]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, said + "\n")
