"""The lease cache over a manager made of futures, with a clock of the test's own."""

import asyncio
from typing import Any

import pytest

from tenement.errors import Conflict, NotFound, StartTimeout, TenementError, Unreachable
from tenement.proxy.document import TenantEntry
from tenement.proxy.lease import Lease
from tenement.proxy.leases import Leases
from tenement.proxy.policy import Policy
from tenement.proxy.routes import Tenant

ALICE = Tenant("notes:alice", TenantEntry(), Policy(startup_timeout_s=1.0, drain_timeout_s=10.0))


class Manager:
    def __init__(self) -> None:
        self.replies: list[Any] = []
        self.log: list[Any] = []

    async def lease(self, service: str, id_: str) -> tuple[str, int]:
        self.log.append("lease")
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        if isinstance(reply, asyncio.Future):
            reply = await reply
        if isinstance(reply, Exception):
            raise reply
        return reply

    def release(self, service: str, id_: str, generation: int) -> None:
        self.log.append(("release", generation))

    def report(self, service: str, id_: str, generation: int, what: str) -> None:
        self.log.append((what, generation))


class Pool:
    def __init__(self, address: str) -> None:
        self.state = "open"

    def close(self) -> None:
        self.state = "closed"

    def reopen(self) -> None:
        self.state = "open"

    def cut(self) -> None:
        self.state = "cut"


class Request:
    def __init__(self) -> None:
        self.lease: Lease[Pool] | None = None
        self.error: TenementError | None = None
        self.done = asyncio.Event()

    def lease_granted(self, lease: Lease[Pool]) -> None:
        self.lease = lease
        self.done.set()

    def lease_failed(self, error: TenementError) -> None:
        self.error = error
        self.done.set()


class World:
    def __init__(self, *replies: Any) -> None:
        self.now = 100.0
        self.manager = Manager()
        self.manager.replies = list(replies)
        self.leases = Leases(self.manager, Pool, linger_s=1.0, clock=lambda: self.now)

    async def request(self) -> Request:
        request = Request()
        self.leases.wait(ALICE, request)
        await asyncio.wait_for(request.done.wait(), 5)
        return request

    async def granted(self) -> Lease[Pool]:
        lease = (await self.request()).lease
        assert lease is not None
        return lease


def run(case) -> None:
    asyncio.run(asyncio.wait_for(case(), 10))


def test_a_lease_is_released_a_while_after_its_last_use():
    async def case():
        world = World(("a:1", 1))
        lease = await world.granted()
        assert lease.active == 1 and world.leases.held == {"notes:alice": lease}
        world.leases.finish(lease, world.now)
        world.now += 0.9
        world.leases.sweep(world.now)
        assert world.manager.log == ["lease"]
        world.now += 0.2
        world.leases.sweep(world.now)
        assert world.manager.log == ["lease", ("release", 1)]
        assert world.leases.held == {} and lease.pool.state == "closed"

    run(case)


def test_a_lease_in_use_is_never_released():
    async def case():
        world = World(("a:1", 1))
        await world.granted()
        world.now += 1000
        world.leases.sweep(world.now)
        assert world.manager.log == ["lease"]
        await world.leases.close()

    run(case)


def test_all_who_wait_share_a_call_and_its_failure():
    async def case():
        reply = asyncio.get_running_loop().create_future()
        world = World(reply)
        requests = [Request() for _ in range(3)]
        for request in requests:
            world.leases.wait(ALICE, request)
        reply.set_exception(NotFound("no such tenant"))
        for request in requests:
            await request.done.wait()
            assert isinstance(request.error, NotFound)
        assert world.manager.log == ["lease"]

    run(case)


def test_a_wait_that_was_given_up_is_not_called_and_not_counted():
    async def case():
        reply = asyncio.get_running_loop().create_future()
        world = World(reply)
        gone, there = Request(), Request()
        world.leases.wait(ALICE, gone)
        world.leases.wait(ALICE, there)
        world.leases.give_up(ALICE, gone)
        reply.set_result(("a:1", 1))
        await there.done.wait()
        assert gone.lease is None
        assert there.lease is not None and there.lease.active == 1
        await world.leases.close()

    run(case)


def test_a_call_that_everybody_gave_up_is_ended_and_whoever_comes_then_gets_another():
    async def case():
        reply = asyncio.get_running_loop().create_future()
        world = World(reply, ("a:1", 1))
        gone, late = Request(), Request()
        world.leases.wait(ALICE, gone)
        await asyncio.sleep(0)
        world.leases.give_up(ALICE, gone)
        assert world.manager.log == ["lease", ("release", 0)]
        world.leases.wait(ALICE, late)
        reply.set_exception(Conflict("given up"))
        await late.done.wait()
        assert late.lease is not None and late.lease.active == 1
        await world.leases.close()

    run(case)


def test_a_revoked_lease_serves_no_new_request_and_is_released_when_the_last_ends():
    async def case():
        world = World(("a:1", 1), ("a:2", 2))
        old = await world.granted()
        world.leases.revoked("notes", "alice", 1, "deploy")
        assert world.leases.held == {} and old.pool.state == "closed"
        new = await world.granted()
        assert new.address == "a:2"
        assert world.manager.log == ["lease", "lease"]
        world.leases.finish(old, world.now)
        assert world.manager.log[-1] == ("release", 1)
        await world.leases.close()

    run(case)


def test_a_revoked_lease_without_requests_is_released_at_once():
    async def case():
        world = World(("a:1", 1))
        world.leases.finish(await world.granted(), world.now)
        world.leases.revoked("notes", "alice", 1, "idle")
        assert world.manager.log == ["lease", ("release", 1)]

    run(case)


def test_a_revoked_lease_is_cut_at_the_drain_deadline():
    async def case():
        world = World(("a:1", 1))
        lease = await world.granted()
        world.leases.revoked("notes", "alice", 1, "stop")
        world.now += 9.9
        world.leases.sweep(world.now)
        assert lease.pool.state == "closed"
        world.now += 0.2
        world.leases.sweep(world.now)
        assert lease.pool.state == "cut"
        world.leases.finish(lease, world.now)

    run(case)


def test_a_revocation_of_another_generation_is_ignored():
    async def case():
        world = World(("a:1", 2))
        lease = await world.granted()
        world.leases.revoked("notes", "alice", 1, "old news")
        assert world.leases.held == {"notes:alice": lease}
        await world.leases.close()

    run(case)


def test_a_revocation_that_overtakes_its_own_lease_counts():
    async def case():
        first = asyncio.get_running_loop().create_future()
        world = World(first, ("a:2", 2))
        request = Request()
        world.leases.wait(ALICE, request)
        await asyncio.sleep(0)
        world.leases.revoked("notes", "alice", 1, "stop")
        first.set_result(("a:1", 1))
        await request.done.wait()
        assert request.lease is not None and request.lease.generation == 2
        assert world.manager.log == ["lease", ("release", 1), "lease"]
        await world.leases.close()

    run(case)


def test_a_manager_that_vanishes_is_waited_for():
    async def case():
        world = World(Unreachable("gone"), Unreachable("gone"), ("a:1", 1))
        assert (await world.granted()).generation == 1
        assert world.manager.log == ["lease"] * 3
        await world.leases.close()

    run(case)


def test_but_not_for_longer_than_a_start_may_take():
    async def case():
        world = World(Unreachable("gone"))
        request = Request()
        world.leases.wait(ALICE, request)
        await asyncio.sleep(0)
        world.now += 60
        await request.done.wait()
        assert isinstance(request.error, Unreachable)

    run(case)


def test_a_call_that_never_returns_is_a_start_timeout(monkeypatch: pytest.MonkeyPatch):
    async def case():
        monkeypatch.setattr("tenement.proxy.leases._CALL_MARGIN_S", -0.95)
        world = World(asyncio.get_running_loop().create_future())
        assert isinstance((await world.request()).error, StartTimeout)

    run(case)


def test_a_refused_connection_retires_the_lease_and_the_same_grant_revives_it():
    async def case():
        world = World(("a:1", 1))
        lease = await world.granted()
        lease.active += 1  # another request, whose connection works
        world.leases.refused(lease, "refused")
        world.leases.finish(lease, world.now)
        assert world.leases.held == {} and lease.active == 1
        assert await world.granted() is lease
        assert lease.active == 2 and lease.pool.state == "open"
        assert ("release", 1) not in world.manager.log
        await world.leases.close()

    run(case)


def test_leases_are_renewed_when_the_manager_is_back():
    async def case():
        world = World(("a:1", 1), ("a:1", 7))
        lease = await world.granted()
        world.leases.manager_back()
        await asyncio.sleep(0.01)
        assert world.leases.held == {"notes:alice": lease} and lease.generation == 7
        assert lease.pool.state == "open"
        world.leases.finish(lease, world.now)
        await world.leases.close()
        assert world.manager.log == ["lease", "lease", ("release", 7)]

    run(case)


def test_a_tenant_that_moved_while_the_manager_was_away_gets_a_new_lease():
    async def case():
        world = World(("a:1", 1), ("a:9", 7))
        old = await world.granted()
        world.leases.manager_back()
        await asyncio.sleep(0.01)
        assert world.leases.held["notes:alice"].address == "a:9"
        assert old.active == 1 and old.pool.state == "closed"
        world.leases.finish(old, world.now)
        assert ("release", 1) not in world.manager.log
        await world.leases.close()

    run(case)


def test_a_retired_lease_in_use_is_renewed_too_and_released_when_its_last_request_ends():
    async def case():
        world = World(("a:1", 1), ("a:1", 7))
        lease = await world.granted()
        world.leases.revoked("notes", "alice", 1, "moves")
        world.leases.manager_back()
        await asyncio.sleep(0.01)
        assert lease.generation == 7 and world.leases.held == {}, "no new request uses it"
        world.leases.revoked("notes", "alice", 7, "moves")
        world.leases.finish(lease, world.now)
        assert world.manager.log == ["lease", "lease", ("release", 7)]

    run(case)


def test_a_grant_that_two_leases_were_renewed_to_is_released_after_both():
    async def case():
        world = World(("a:1", 1), ("a:2", 2), ("a:1", 7))
        old = await world.granted()
        world.leases.revoked("notes", "alice", 1, "moves")
        stand_in = await world.granted()
        world.leases.manager_back()
        await asyncio.sleep(0.01)
        new = world.leases.held["notes:alice"]
        assert (new.address, new.generation) == ("a:1", 7)
        world.leases.finish(stand_in, world.now)
        if new is not old:
            world.leases.finish(old, world.now)
            assert ("release", 7) not in world.manager.log
        await world.leases.close()
        assert world.manager.log.count(("release", 7)) == 1

    run(case)


def test_a_retired_lease_whose_last_request_ends_before_it_is_renewed_leaves_none_behind():
    async def case():
        renewed = asyncio.get_running_loop().create_future()
        world = World(("a:1", 1), renewed)
        lease = await world.granted()
        world.leases.revoked("notes", "alice", 1, "moves")
        world.leases.manager_back()
        await asyncio.sleep(0.01)
        world.leases.finish(lease, world.now)
        renewed.set_result(("a:1", 7))
        await asyncio.sleep(0.01)
        world.now += 2
        world.leases.sweep(world.now)
        assert world.manager.log == ["lease", "lease", ("release", 7)]

    run(case)


def test_a_connection_that_is_refused_before_the_lease_is_renewed_is_waited_for():
    async def case():
        renewed = asyncio.get_running_loop().create_future()
        world = World(("a:1", 1), renewed)
        lease = await world.granted()
        world.leases.manager_back()
        await asyncio.sleep(0.01)
        world.leases.refused(lease, "refused")
        world.leases.finish(lease, world.now)
        assert not [each for each in world.manager.log if each != "lease"], "it has no number to name"
        renewed.set_result(("a:9", 7))
        assert (await world.granted()).address == "a:9"

    run(case)


def test_a_tenant_that_is_gone_when_the_manager_is_back_is_not_served_on():
    async def case():
        world = World(("a:1", 1), NotFound("removed"))
        world.leases.finish(await world.granted(), world.now)
        world.leases.manager_back()
        await asyncio.sleep(0.01)
        assert world.leases.held == {}
        assert world.manager.log == ["lease", "lease"]

    run(case)


def test_closing_releases_everything_and_drops_who_waits():
    async def case():
        world = World(("a:1", 1))
        lease = await world.granted()
        world.manager.replies = [asyncio.get_running_loop().create_future()]
        waiting = Request()
        world.leases.wait(Tenant("notes:bob", TenantEntry(), Policy()), waiting)
        await asyncio.sleep(0)
        await world.leases.close()
        assert lease.pool.state == "cut"
        assert world.manager.log[-1] == ("release", 1)
        assert not waiting.done.is_set()

    run(case)
