"""Whom the manager lets manage: who is known by user or group, and others if polkit says so."""

import asyncio
from typing import Any, cast

import pytest
from dbus_fast import Message, MessageFlag, Variant
from dbus_fast.aio import MessageBus

from tenement.errors import Denied
from tenement.manager import authority
from tenement.manager.authority import Authority

NOBODY, MEMBERS = 65534, 4000
ASKS = MessageFlag.ALLOW_INTERACTIVE_AUTHORIZATION


class Bus:
    """A bus with one client, and with polkit if `allowed` is not None."""

    def __init__(self, uid: int, groups: list[int] | None, allowed: bool | None) -> None:
        self.uid, self.groups, self.allowed = uid, groups, allowed
        self.asked: list[Message] = []

    async def call(self, message: Message) -> Message:
        await asyncio.sleep(0)
        self.asked.append(message)
        message.serial = 1
        if message.member == "GetConnectionCredentials":
            found = {"UnixUserID": Variant("u", self.uid)}
            if self.groups is not None:
                found["UnixGroupIDs"] = Variant("au", self.groups)
            return Message.new_method_return(message, "a{sv}", [found])
        if self.allowed is None:
            return Message.new_error(message, "org.freedesktop.DBus.Error.ServiceUnknown", "no polkit")
        return Message.new_method_return(message, "(bba{ss})", [[self.allowed, not self.allowed, {}]])

    @property
    def members(self) -> list[str | None]:
        return [message.member for message in self.asked]


@pytest.fixture(autouse=True)
def users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(authority.pwd, "getpwnam", lambda name: _Entry(pw_uid=900 + len(name)))
    monkeypatch.setattr(authority.grp, "getgrnam", lambda _: _Entry(gr_gid=MEMBERS))


class _Entry:
    def __init__(self, **values: int) -> None:
        self.__dict__ |= values


def check(bus: Bus, flags: MessageFlag = MessageFlag.NONE, times: int = 1) -> None:
    """Have one client call; raises Denied."""

    async def calls() -> None:
        judge = Authority(cast(MessageBus, bus))
        for _ in range(times):
            await judge.check(call(flags))

    asyncio.run(calls())


def call(flags: MessageFlag = MessageFlag.NONE) -> Message:
    return Message(path="/x", interface="x.y", member="Stop", sender=":1.7", flags=flags)


@pytest.mark.parametrize(
    ("uid", "groups"), [(0, []), (900 + len("tenement-proxy"), []), (NOBODY, [1, MEMBERS])]
)
def test_who_is_known_is_looked_up_once_and_polkit_never_asked(uid: int, groups: list[int]) -> None:
    bus = Bus(uid, groups, allowed=False)
    check(bus, times=3)
    assert bus.members == ["GetConnectionCredentials"]


def test_of_others_polkit_is_asked_each_time() -> None:
    bus = Bus(NOBODY, [27], allowed=True)
    check(bus, times=2)
    assert bus.members == ["GetConnectionCredentials", "CheckAuthorization", "CheckAuthorization"]
    subject, action, *_ = cast(list[Any], bus.asked[1].body)
    assert (subject[0], subject[1]["name"].value, action) == (
        "system-bus-name",
        ":1.7",
        "dev.tenement.manage",
    )


@pytest.mark.parametrize(("flags", "passed"), [(MessageFlag.NONE, 0), (ASKS, 1)])
def test_a_person_is_asked_only_if_the_caller_says_so(flags: MessageFlag, passed: int) -> None:
    bus = Bus(NOBODY, [27], allowed=True)
    check(bus, flags)
    assert bus.asked[1].body[3] == passed


@pytest.mark.parametrize("allowed", [None, False], ids=["no polkit", "polkit says no"])
@pytest.mark.parametrize("groups", [[27], None], ids=["other groups", "groups unknown"])
def test_who_cannot_be_judged_or_is_refused_may_not(allowed: bool | None, groups: list[int] | None) -> None:
    with pytest.raises(Denied, match="join group 'tenement'"):
        check(Bus(NOBODY, groups, allowed), ASKS)


def test_the_first_calls_of_a_client_stay_in_order() -> None:
    order: list[int] = []

    async def calls() -> None:
        judge = Authority(cast(MessageBus, Bus(0, [], None)))

        async def one(number: int) -> None:
            await judge.check(call())
            order.append(number)

        tasks = []
        for number in range(8):
            tasks.append(asyncio.create_task(one(number)))
            await asyncio.sleep(0)
        await asyncio.gather(*tasks)

    asyncio.run(calls())
    assert order == list(range(8))
