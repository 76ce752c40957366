"""The app of the WebSocket benchmark: sends every message back."""

import os

import uvloop
from aiohttp import WSMsgType, web


async def echo(request: web.Request) -> web.WebSocketResponse:
    """Serve one WebSocket."""
    socket = web.WebSocketResponse(compress=False)
    await socket.prepare(request)
    async for message in socket:
        if message.type is WSMsgType.TEXT:
            await socket.send_str(message.data)
    return socket


def main() -> None:
    """Serve until told to end."""
    application = web.Application()
    application.router.add_get("/", echo)
    web.run_app(
        application,
        host=os.environ["HOST"],
        port=int(os.environ["PORT"]),
        backlog=4096,
        loop=uvloop.new_event_loop(),
        print=lambda *_: None,
    )


if __name__ == "__main__":
    main()
