"""Real sockets in a run directory of the test's own."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from ipc.component import Component
from ipc.places import Places


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places.under(tmp_path)


@asynccontextmanager
async def living(component: Component, *loops: Coroutine[Any, Any, None]) -> AsyncIterator[Component]:
    """A component that runs in this test's loop until the block ends."""
    async with component:
        task = asyncio.create_task(component.run(*loops))
        await asyncio.sleep(0)
        try:
            yield component
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
def alive() -> Callable[..., Any]:
    return living
