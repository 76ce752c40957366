"""When an app counts as ready, asked over real sockets of apps made of a script."""

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tenement.manager import readiness
from tenement.manager.readiness import NotReady, Probe, check, parse_status, wait_until_ready

type Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def answering(*answers: bytes, seen: list[bytes] | None = None) -> Handler:
    """An app that gives one answer after the other, the last again and again, and closes each time."""
    left = list(answers)

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        if seen is not None:
            seen.append(request)
        writer.write(left.pop(0) if len(left) > 1 else left[0])
        await writer.drain()
        writer.close()

    return handle


@asynccontextmanager
async def app(path: Path, handler: Handler):
    conversations: list[asyncio.Task[None]] = []

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        conversations.append(task)
        await handler(reader, writer)

    async with await asyncio.start_unix_server(converse, path):
        yield Probe(f"unix:{path}", "/up", "alice.notes.example.com")
        await asyncio.gather(*conversations)


def ask(path: Path, handler: Handler, *, wait_s: float = 0.0) -> None:
    async def run() -> None:
        async with app(path / "http.sock", handler) as probe:
            fault = None
            try:
                await (wait_until_ready(probe, wait_s) if wait_s else check(probe))
            except NotReady as error:
                fault = error
        if fault:
            raise fault

    asyncio.run(run())


def test_an_app_that_answers_2xx_is_ready(tmp_path: Path):
    ask(tmp_path, answering(b"HTTP/1.1 204 No Content\r\n\r\n"))


@pytest.mark.parametrize("status", [301, 302, 400, 404, 500, 503])
def test_any_other_status_is_the_reason_why_it_is_not(tmp_path: Path, status: int):
    with pytest.raises(NotReady, match=f"/up answered {status}"):
        ask(tmp_path, answering(f"HTTP/1.1 {status} -\r\n\r\n".encode()))


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"", "closed the connection without an answer"),
        (b"SSH-2.0-OpenSSH\r\n", "not HTTP"),
        (b"HTTP/1.1 2000 \r\n", "not HTTP"),
        (b"HTTP/2 200 OK\r\n", "not HTTP"),
        (b"x" * 300, "not HTTP"),
    ],
)
def test_what_is_no_answer_is_not_ready(tmp_path: Path, answer: bytes, reason: str):
    with pytest.raises(NotReady, match=reason):
        ask(tmp_path, answering(answer))


def test_a_hostile_app_makes_us_read_little(tmp_path: Path):
    """An endless status line is given up after its first bytes, though the app never stops sending."""
    sent = 0

    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        try:
            while True:
                writer.write(b"A" * 65536)
                await writer.drain()
                sent += 65536
        except ConnectionError:
            pass

    with pytest.raises(NotReady, match="not HTTP"):
        ask(tmp_path, endless)
    assert sent < 4 << 20


def test_a_status_line_may_come_in_pieces():
    assert parse_status(b"HTTP/1.1 2") is None
    assert parse_status(b"HTTP/1.0 200\n") == 200
    assert parse_status(b"HTTP/1.1 503 ") == 503


def test_the_question_looks_like_a_visitor_over_https(tmp_path: Path):
    seen: list[bytes] = []
    ask(tmp_path, answering(b"HTTP/1.1 200 OK\r\n\r\n", seen=seen))
    (request,) = seen
    assert request.startswith(b"GET /up HTTP/1.1\r\nHost: alice.notes.example.com\r\n")
    assert b"\r\nX-Forwarded-Proto: https\r\n" in request


def test_a_sick_start_is_asked_again_until_it_is_well(tmp_path: Path):
    sick = b"HTTP/1.1 503 -\r\n\r\n"
    began = time.monotonic()
    ask(tmp_path, answering(sick, sick, sick, b"HTTP/1.1 200 OK\r\n\r\n"), wait_s=5)
    assert time.monotonic() - began < 1


def test_the_last_reason_is_told_when_time_is_up(tmp_path: Path):
    with pytest.raises(NotReady, match=r"not ready within 0\.05 s: /up answered 503"):
        ask(tmp_path, answering(b"HTTP/1.1 503 -\r\n\r\n"), wait_s=0.05)


def test_nobody_listening_is_a_reason_too(tmp_path: Path):
    probe = Probe(f"unix:{tmp_path}/none", None, "a.b")
    with pytest.raises(NotReady, match="nothing accepts connections on unix:"):
        asyncio.run(wait_until_ready(probe, 0.05))


def test_an_app_that_begins_to_listen_is_found_soon(tmp_path: Path):
    async def run() -> float:
        waiting = asyncio.create_task(wait_until_ready(Probe(f"unix:{tmp_path}/late", None, "a.b"), 5))
        await asyncio.sleep(0.2)
        assert not waiting.done()
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(f"{tmp_path}/late")
        listener.listen()
        began = time.monotonic()
        await waiting
        listener.close()
        return time.monotonic() - began

    assert asyncio.run(run()) < 0.1


def test_a_port_is_asked_from_the_proxys_own_address():
    """Tenants' firewalls let in nobody else."""

    async def run() -> str:
        peer = asyncio.get_running_loop().create_future()

        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            peer.set_result(writer.get_extra_info("peername")[0])
            writer.close()

        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        async with server:
            await check(Probe(f"127.0.0.1:{server.sockets[0].getsockname()[1]}", None, "a.b"))
            return await peer

    assert asyncio.run(run()) == "127.0.77.1"


def test_a_question_without_an_answer_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(readiness, "_ONE_CHECK_S", 0.02)

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    with pytest.raises(NotReady, match=r"no answer within 0\.02 s"):
        ask(tmp_path, silent, wait_s=0.1)
