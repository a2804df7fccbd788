"""Work that is not left half done when its task is cancelled (Ctrl-C): it ends first.

`settled` then lets the cancellation through, for what a thread does and is undone next: the thread would go
on beside the undoing. `finished` drops it, for what cannot be undone: the cancellation came too late.
Used by `save`, `restore` and `monitor`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def settled(work: Coroutine[Any, Any, T]) -> T:
    """What `work` returns or raises; CancelledError, once it is over, if that was asked meanwhile."""
    task = asyncio.ensure_future(work)
    was_cancelled = await _ended(task)
    result = task.result()
    if was_cancelled:
        raise asyncio.CancelledError
    return result


async def finished(work: Coroutine[Any, Any, T]) -> T:
    """What `work` returns or raises, whatever is asked meanwhile."""
    task = asyncio.ensure_future(work)
    await _ended(task)
    return task.result()


async def _ended(task: asyncio.Task[Any]) -> bool:
    """Wait for its end; whether we were cancelled meanwhile."""
    was_cancelled = False
    while not task.done():
        try:
            await asyncio.wait((task,))
        except asyncio.CancelledError:
            was_cancelled = True
    return was_cancelled
