import asyncio
from typing import Any

import pytest
from dbus_fast import Message, MessageType

from tenement import client
from tenement.client import Client, error_from_bus
from tenement.errors import Denied, Internal, InvalidName, NotFound, StartFailed, TenementError, Unreachable


@pytest.mark.parametrize(
    ("name", "cls"),
    [
        ("dev.tenement.Error.NotFound", NotFound),
        ("dev.tenement.Error.StartFailed", StartFailed),
        ("dev.tenement.Error.Unheard", Internal),
        ("org.freedesktop.DBus.Error.AccessDenied", Denied),
        ("org.freedesktop.DBus.Error.ServiceUnknown", Unreachable),
        ("org.freedesktop.DBus.Error.NoReply", Unreachable),
        ("org.freedesktop.DBus.Error.Spawn.ChildExited", Unreachable),
        ("org.freedesktop.systemd1.NoSuchUnit", Unreachable),
        ("org.freedesktop.DBus.Error.UnknownMethod", Internal),
        ("com.example.Odd", Internal),
    ],
)
def test_errors_of_the_manager_and_of_the_bus_become_ours(name: str, cls: type[TenementError]) -> None:
    assert type(error_from_bus(name, "text")) is cls


class FakeBus:
    """A bus that gives one answer and remembers what it was asked."""

    connected = False

    def __init__(self, answer: Message | Exception | None) -> None:
        self.answer = answer
        self.asked: list[Message] = []

    async def call(self, message: Message) -> Message | None:
        self.asked.append(message)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def answered(*body: Any, signature: str = "s") -> Message:
    return Message(
        message_type=MessageType.METHOD_RETURN, reply_serial=1, signature=signature, body=list(body)
    )


def connected(bus: FakeBus) -> Client:
    found = Client()
    found._bus = bus  # type: ignore[assignment]
    return found


def test_a_call_carries_its_arguments() -> None:
    bus = FakeBus(answered(signature=""))
    asyncio.run(connected(bus).remove("notes", "alice", purge=True))
    (message,) = bus.asked
    assert (message.destination, message.path) == ("dev.tenement.Manager", "/dev/tenement/Manager")
    assert (message.member, message.signature, message.body) == ("Remove", "ssb", ["notes", "alice", True])


@pytest.mark.parametrize("name", ["ali\0ce", "ali\udc80ce"])
def test_what_the_bus_cannot_carry_is_refused_before_it_ends_the_connection(name: str) -> None:
    bus = FakeBus(answered("{}"))
    with pytest.raises(InvalidName, match="has a NUL or is not UTF-8"):
        asyncio.run(connected(bus).status("notes", name))
    assert not bus.asked


def test_a_document_is_read() -> None:
    assert asyncio.run(connected(FakeBus(answered('[{"tenant": "a:b"}]'))).list()) == [{"tenant": "a:b"}]


@pytest.mark.parametrize("text", ["", "{", "3", '["x"]'])
def test_a_document_that_is_none_is_an_error_of_ours(text: str) -> None:
    with pytest.raises(Internal, match="answer to List"):
        asyncio.run(connected(FakeBus(answered(text))).list())


@pytest.mark.parametrize("answer", [None, ConnectionResetError(), EOFError(), TimeoutError()])
def test_a_lost_answer_is_no_manager(answer: Exception | None) -> None:
    with pytest.raises(Unreachable):
        asyncio.run(connected(FakeBus(answer)).reload())


def test_an_error_is_raised_with_its_text() -> None:
    error = Message(
        message_type=MessageType.ERROR,
        reply_serial=1,
        error_name="dev.tenement.Error.NotFound",
        signature="s",
        body=["notes:alice: no such tenant"],
    )
    with pytest.raises(NotFound, match="notes:alice: no such tenant"):
        asyncio.run(connected(FakeBus(error)).status("notes", "alice"))


def test_without_a_system_bus_the_manager_is_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nonexistent/bus")

    async def connect() -> None:
        async with client.Client():
            pass

    with pytest.raises(Unreachable, match="system bus"):
        asyncio.run(connect())
