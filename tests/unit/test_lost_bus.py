"""Work that ends with the connection that it needs."""

import asyncio

import pytest

from tenement.bus import unless_lost


def test_work_is_done_while_there_is_a_connection():
    async def story() -> int:
        lost = asyncio.get_running_loop().create_future()
        return await unless_lost(lost, asyncio.sleep(0, 7))

    assert asyncio.run(story()) == 7


def test_work_that_waits_for_a_lost_connection_is_ended_and_clears_away():
    cleared = []

    async def hang() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cleared.append(True)

    async def story() -> None:
        loop = asyncio.get_running_loop()
        lost = loop.create_future()
        loop.call_later(0.01, lost.set_result, None)
        async with asyncio.timeout(5):
            await unless_lost(lost, hang())

    with pytest.raises(ConnectionError):
        asyncio.run(story())
    assert cleared


def test_the_works_own_failure_is_told():
    async def fail() -> None:
        raise KeyError("mine")

    async def story() -> None:
        await unless_lost(asyncio.get_running_loop().create_future(), fail())

    with pytest.raises(KeyError, match="mine"):
        asyncio.run(story())
