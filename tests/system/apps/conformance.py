#!/usr/bin/python3
"""An app on a server that others wrote (aiohttp), for clients that others wrote.

/            a WebSocket is echoed; any other request is told what arrived, as JSON
/bytes/N     N bytes, chunked
/events      three server-sent events
/gzip        a compressed answer with a length
/status/N    an answer with that status
/page        a page that tries the above from a browser; its title ends as "passed" or as what went wrong
"""

import asyncio
import gzip
import hashlib
import os
from collections.abc import Callable

from aiohttp import WSMsgType, web

COMPRESSED = gzip.compress(b"compressed " * 100, mtime=0)

PAGE = """<!doctype html><meta charset="utf-8"><title>running</title><script type="module">
const check = (what, good) => { if (!good) throw new Error(what) };
const within = (what, executor) => new Promise((resolve, reject) => {
  setTimeout(() => reject(new Error(what + " took too long")), 10000);
  executor(resolve, reject);
});
try {
  const body = new Uint8Array(3000000).map((_, index) => index);
  const digest = [...new Uint8Array(await crypto.subtle.digest("SHA-256", body))]
    .map(byte => byte.toString(16).padStart(2, "0")).join("");
  const put = number => fetch(`/a%2Fb/${number}?q=%20`, {method: "PUT", body}).then(answer => answer.json());
  const answers = await Promise.all([...Array(20).keys()].map(put));
  answers.forEach((answer, number) => {
    check("an upload", answer.digest === digest && answer.length === body.length);
    check("a target", answer.target === `/a%2Fb/${number}?q=%20`);
  });
  check("chunks", (await (await fetch("/bytes/1000000")).arrayBuffer()).byteLength === 1000000);
  check("gzip", (await (await fetch("/gzip")).text()).startsWith("compressed compressed"));
  check("204", (await fetch("/status/204")).status === 204);
  check("HEAD", (await (await fetch("/bytes/1000", {method: "HEAD"})).text()) === "");
  const events = await within("events", resolve => {
    const source = new EventSource("/events"), seen = [];
    source.onmessage = event => {
      seen.push(event.data);
      if (seen.length === 3) { source.close(); resolve(seen) }
    };
  });
  check("events", events.join() === "0,1,2");
  const message = "\\u00fc".repeat(100000);
  const closed = await within("a WebSocket", (resolve, reject) => {
    const socket = new WebSocket(`ws://${location.host}/`, ["v2.app", "v1.app"]);
    socket.onopen = () => { check("a subprotocol", socket.protocol === "v1.app"); socket.send(message) };
    socket.onmessage = event =>
      event.data === message ? socket.close(4001, "enough") : reject(new Error("an echo"));
    socket.onclose = resolve;
  });
  check("a close code", closed.code === 4001 && closed.wasClean);
  document.title = "passed";
} catch (error) {
  document.title = String(error);
}
</script>"""


async def tell(request: web.Request) -> web.StreamResponse:
    """Say what arrived, or echo a WebSocket."""
    if request.headers.get("Upgrade", "").lower() == "websocket":
        return await echo(request)
    body = await request.read()
    fields = [[name.decode("latin-1"), value.decode("latin-1")] for name, value in request.raw_headers]
    answer = {
        "method": request.method,
        "target": request.raw_path,
        "version": list(request.version),
        "fields": fields,
        "length": len(body),
        "digest": hashlib.sha256(body).hexdigest(),
    }
    return web.json_response(answer)


async def echo(request: web.Request) -> web.WebSocketResponse:
    """Send messages back, and in the end the client's own reason to close."""
    socket = web.WebSocketResponse(protocols=["v1.app"], max_msg_size=0, autoclose=False, compress=False)
    await socket.prepare(request)
    while True:
        message = await socket.receive()
        if message.type is WSMsgType.TEXT:
            await socket.send_str(message.data)
        elif message.type is WSMsgType.BINARY:
            await socket.send_bytes(message.data)
        elif message.type is WSMsgType.CLOSE:
            await socket.close(code=message.data or 1000, message=(message.extra or "").encode())
        else:
            return socket


async def some_bytes(request: web.Request) -> web.StreamResponse:
    """Send so many bytes in chunks."""
    answer = web.StreamResponse()
    if request.version >= (1, 1):
        answer.enable_chunked_encoding()
    await answer.prepare(request)
    left = int(request.match_info["count"])
    while left:
        size = min(left, 10_000)
        await answer.write(b"x" * size)
        left -= size
    await answer.write_eof()
    return answer


async def events(request: web.Request) -> web.StreamResponse:
    """Send three events, a moment apart, and end."""
    answer = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
    await answer.prepare(request)
    for number in range(3):
        await answer.write(b"data: %d\n\n" % number)
        await asyncio.sleep(0.05)
    return answer


async def compressed(_: web.Request) -> web.Response:
    """Send what was compressed beforehand."""
    return web.Response(body=COMPRESSED, headers={"Content-Encoding": "gzip", "ETag": '"one"'})


async def status(request: web.Request) -> web.Response:
    """Answer with a status."""
    return web.Response(status=int(request.match_info["status"]))


async def page(_: web.Request) -> web.Response:
    """Send the page."""
    return web.Response(text=PAGE, content_type="text/html")


def main() -> None:
    """Serve until told to end."""
    application = web.Application(client_max_size=1 << 28)
    routes: dict[str, Callable[[web.Request], object]] = {
        "/bytes/{count}": some_bytes, "/events": events, "/gzip": compressed, "/status/{status}": status,
        "/page": page, "/{any:.*}": tell,
    }  # fmt: skip
    for path, handler in routes.items():
        application.router.add_route("*", path, handler)
    web.run_app(application, host=os.environ["HOST"], port=int(os.environ["PORT"]), print=lambda *_: None)


if __name__ == "__main__":
    main()
