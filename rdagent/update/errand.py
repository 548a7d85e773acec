"""An errand for a child: an order on its standard input, an answer on its standard output, both JSON, within a time.

What costs memory, blocks for long or reads what a stranger wrote is done there, not in the process that has to beat.
"""

import asyncio
from typing import TypeVar

import msgspec

from ipc.child import module_command

A = TypeVar("A")


class ErrandError(Exception):
    """No answer. One line."""


class ErrandTooLong(ErrandError):
    """Not within its time; the child is gone."""


async def send(module: str, order: msgspec.Struct, answer: type[A], *, seconds: float) -> A:
    """Run `module` with `order`. The child is gone when this returns, also if we are cancelled. Raises ErrandError."""
    pipe = asyncio.subprocess.PIPE
    try:
        child = await asyncio.create_subprocess_exec(*module_command(module), stdin=pipe, stdout=pipe, stderr=pipe)
    except OSError as error:
        raise ErrandError(f"{module} cannot be started: {error.strerror}") from error
    try:
        async with asyncio.timeout(seconds):
            said, cried = await child.communicate(msgspec.json.encode(order))
    except TimeoutError as error:
        raise ErrandTooLong(f"{module} took longer than {seconds:g} s") from error
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    try:
        return msgspec.json.decode(said, type=answer)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        last = cried.decode(errors="replace").strip().rpartition("\n")[2][:300]
        raise ErrandError(f"{module} ended with status {child.returncode}: {last}") from error
