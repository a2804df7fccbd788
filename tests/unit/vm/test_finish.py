"""Work that ends before its task's cancellation is heard of."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from guestmemfs_fuse.vm.finish import finished, settled

Wrapper = Callable[[Coroutine[Any, Any, str]], Coroutine[Any, Any, str]]


async def cancelled_meanwhile(wrapper: Wrapper, log: list[str]) -> str:
    """Start work through the wrapper, cancel the task while the work is in its middle, and wait for both."""
    begun, may_end = asyncio.Event(), asyncio.Event()

    async def work() -> str:
        begun.set()
        await may_end.wait()
        log.append("ended")
        return "result"

    task = asyncio.ensure_future(wrapper(work()))
    await begun.wait()
    task.cancel()
    asyncio.get_running_loop().call_soon(may_end.set)
    return await task


def test_what_cannot_be_undone_is_finished_and_its_result_counts() -> None:
    log: list[str] = []
    assert asyncio.run(cancelled_meanwhile(finished, log)) == "result"
    assert log == ["ended"]


def test_what_is_undone_next_has_ended_when_the_cancellation_is_heard_of() -> None:
    log: list[str] = []
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(cancelled_meanwhile(settled, log))
    assert log == ["ended"]


@pytest.mark.parametrize("wrapper", [finished, settled])
def test_errors_and_results_pass(wrapper: Wrapper) -> None:
    async def result() -> str:
        return "result"

    async def error() -> str:
        raise OSError("of the work")

    assert asyncio.run(wrapper(result())) == "result"
    with pytest.raises(OSError, match="of the work"):
        asyncio.run(wrapper(error()))
