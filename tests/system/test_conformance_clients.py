"""HTTP clients that others wrote, through the proxy to a server that others wrote."""

import asyncio
import hashlib
import http.client
import json
import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import aiohttp
import httpx
import pytest
import requests
import websockets
from websockets.sync.client import connect

from .conftest import Box

APP = "/src/tests/system/apps/conformance.py"
BODY = os.urandom(3_000_000)
DIGEST = hashlib.sha256(BODY).hexdigest()
COMPRESSED = b"compressed " * 100


@dataclass(frozen=True, slots=True)
class Site:
    """Where the app is, by its name in the URL."""

    host: str

    @property
    def url(self) -> str:
        return f"http://{self.host}"


@pytest.fixture(scope="module")
def site(box: Box) -> Iterator[Site]:
    id_ = f"t{os.urandom(4).hex()}"
    box.write_config(
        "clients", f'[service.clients]\ncommand = ["/usr/bin/python3", "-I", "{APP}"]\n', keep=True
    )
    box.run(["ten", "spawn", f"clients:{id_}"])
    yield Site(f"{id_}.clients.localhost")
    box.run(["ten", "rm", "--purge", "-y", f"clients:{id_}"])
    box.run("rm /etc/tenement/tenement.d/clients.toml; ten reload")


def run(*command: str, input: bytes | None = None) -> str:
    result = subprocess.run(command, check=False, capture_output=True, input=input, timeout=60)
    assert result.returncode == 0, (command, result.stdout[-2000:], result.stderr[-2000:])
    return result.stdout.decode()


def arrived(answer: dict[str, Any], target: str = "/a%2Fb/../c?q=%20", *, whole: bool = True) -> None:
    assert answer["target"] == target
    if whole:
        assert (answer["length"], answer["digest"]) == (len(BODY), DIGEST)


# --- curl


@pytest.mark.parametrize(
    "options",
    [
        ["-T", "-"],
        ["-T", "-", "-H", "Expect: 100-continue"],
        ["--data-binary", "@-"],
        ["--data-binary", "@-", "-H", "Transfer-Encoding: chunked"],
        ["--data-binary", "@-", "--http1.0"],
        ["--data-binary", "@-", "--limit-rate", "20M"],
        ["--data-binary", "@-", "--tr-encoding"],
    ],
    ids=" ".join,
)
def test_curl_sends_a_body(site: Site, options: list[str]) -> None:
    target = "/a%2Fb/../c?q=%20"
    arrived(json.loads(run("curl", "-sSf", "--path-as-is", *options, site.url + target, input=BODY)))


def test_curl_reads_all_kinds_of_answers_on_one_connection(site: Site) -> None:
    paths = ["bytes/100000", "status/204", "status/304", "gzip", "events", "x"]
    transfers = [word for path in paths for word in (f"{site.url}/{path}", "-o", "/dev/null")]
    shown = "%{num_connects} %{http_code} %{size_download}\\n"
    lines = run("curl", "-sS", "--compressed", "-w", shown, *transfers).splitlines()
    assert [line.split()[:2] for line in lines] == [
        ["1" if number == 0 else "0", code]
        for number, code in enumerate(["200", "204", "304", "200", "200", "200"])
    ]
    assert lines[0].split()[2] == "100000"


def test_curl_asks_with_head_and_http_1_0(site: Site) -> None:
    assert "content-encoding: gzip" in run("curl", "-sSfI", f"{site.url}/gzip").lower()
    answer = run("curl", "-sSf", "--http1.0", "-i", f"{site.url}/bytes/50000")
    assert answer.endswith("x" * 50_000) and "chunked" not in answer[:1000].lower()


# --- Python


def test_http_client_keeps_its_connection(site: Site) -> None:
    connection = http.client.HTTPConnection(site.host, 80, timeout=30)
    for number in range(20):
        parts = iter([BODY[:10], BODY[10:]]) if number % 2 else BODY
        connection.request("POST", f"/{number}", parts, encode_chunked=bool(number % 2))
        answer = connection.getresponse()
        arrived(json.loads(answer.read()), f"/{number}")
    connection.close()


def test_requests_uses_its_session(site: Site) -> None:
    with requests.Session() as session:
        arrived(session.post(f"{site.url}/r?q=%20", data=BODY, timeout=30).json(), "/r?q=%20")
        arrived(session.put(f"{site.url}/r", data=iter([BODY[:7], BODY[7:]]), timeout=30).json(), "/r")
        assert session.get(f"{site.url}/gzip", timeout=30).content == COMPRESSED
        assert len(session.get(f"{site.url}/bytes/1000000", timeout=30).content) == 1_000_000
        assert session.head(f"{site.url}/gzip", timeout=30).headers["ETag"] == '"one"'


def test_httpx_which_reads_by_h11(site: Site) -> None:
    with httpx.Client(timeout=30) as session:
        arrived(session.post(f"{site.url}/h", content=BODY).json(), "/h")
        arrived(session.post(f"{site.url}/h", content=iter([BODY[:7], BODY[7:]])).json(), "/h")
        assert session.get(f"{site.url}/gzip").content == COMPRESSED
        assert session.get(f"{site.url}/status/204").status_code == 204
        with session.stream("GET", f"{site.url}/events") as answer:
            assert [line for line in answer.iter_lines() if line] == ["data: 0", "data: 1", "data: 2"]


def test_aiohttp_sends_many_at_once(site: Site) -> None:
    async def talk() -> None:
        async with aiohttp.ClientSession() as session:

            async def one(number: int) -> None:
                async with session.post(f"{site.url}/{number}", data=BODY[: number * 1000]) as answer:
                    told = await answer.json()
                    assert (told["target"], told["length"]) == (f"/{number}", number * 1000)

            await asyncio.gather(*map(one, range(100)))

    asyncio.run(asyncio.wait_for(talk(), 60))


def test_websockets_large_fragmented_and_closed_with_a_code(site: Site) -> None:
    large = os.urandom(20 << 20)
    offered = [websockets.Subprotocol("v2.app"), websockets.Subprotocol("v1.app")]
    with connect(f"ws://{site.host}/", subprotocols=offered, max_size=None) as socket:
        assert socket.subprotocol == "v1.app"
        socket.send(large)
        assert socket.recv(30) == large
        socket.send(f"{number}," for number in range(5000))
        assert socket.recv(30) == "".join(f"{number}," for number in range(5000))
        assert socket.ping(b"payload").wait(10)
        socket.close(4001, "enough")
    assert (socket.close_code, socket.close_reason) == (4001, "enough")


# --- Node

NODE = """
const http = require("http"), crypto = require("crypto"), assert = require("assert");
const WebSocket = require("ws");
const [host] = process.argv.slice(1), url = `http://${host}`, body = crypto.randomBytes(3000000);
const digest = crypto.createHash("sha256").update(body).digest("hex");
const agent = new http.Agent({keepAlive: true, maxSockets: 2});
const core = (method, path, parts, headers) => new Promise((resolve, reject) => {
  const request = http.request({host: "127.0.0.1", agent, method, path, headers: {Host: host, ...headers}});
  request.on("response", async answer => {
    const seen = [];
    try { for await (const part of answer) seen.push(part) } catch (error) { reject(error) }
    resolve({answer, text: Buffer.concat(seen).toString()});
  });
  request.on("continue", () => { for (const part of parts) request.write(part); request.end() });
  request.on("error", reject);
  if (headers && headers.Expect) request.flushHeaders();
  else { for (const part of parts) request.write(part); request.end() }
});
(async () => {
  for (let number = 0; number < 20; number++) {
    const expect = number % 2 ? {Expect: "100-continue"} : {};
    const told = JSON.parse((await core("POST", `/${number}?q=%20`, [body], expect)).text);
    assert.deepStrictEqual([told.target, told.digest], [`/${number}?q=%20`, digest]);
  }
  assert.strictEqual((await core("GET", "/bytes/1000000", [])).text.length, 1000000);
  assert.strictEqual((await core("HEAD", "/bytes/1000000", [])).text, "");
  assert.strictEqual((await core("GET", "/status/204", [])).answer.statusCode, 204);
  const told = await Promise.all([...Array(30).keys()].map(number =>
    fetch(`${url}/${number}`, {method: "PUT", body}).then(answer => answer.json())));
  assert(told.every((each, number) => each.target === `/${number}` && each.digest === digest));
  assert((await (await fetch(`${url}/gzip`)).text()).startsWith("compressed"));
  const socket = new WebSocket(`ws://${host}/`, ["v2.app", "v1.app"]);
  await new Promise((resolve, reject) => {
    socket.on("open", () => { assert.strictEqual(socket.protocol, "v1.app"); socket.send(body) });
    socket.on("message", data => { assert(data.equals(body)); socket.close(4001, "enough") });
    socket.on("close", code => code === 4001 ? resolve() : reject(new Error(`closed with ${code}`)));
    socket.on("error", reject);
  });
  agent.destroy();
  console.log("passed");
})().catch(error => { console.error(error); process.exit(1) });
"""


def test_node_by_http_fetch_and_ws(site: Site) -> None:
    assert run("node", "-e", NODE, site.host).endswith("passed\n")


# --- Go, and HTTP/1.0 with keep-alive


@pytest.mark.parametrize("options", [[], ["-disable-keepalive"], ["-m", "POST", "-d", "x" * 5000]])
def test_go_s_client_gets_every_answer(site: Site, options: list[str]) -> None:
    output = run("hey", "-n", "400", "-c", "20", "-t", "30", *options, f"{site.url}/bytes/3000")
    assert re.search(r"\[200\]\s+400 responses", output), output
    assert "Error distribution" not in output


@pytest.mark.parametrize("options", [[], ["-k"], ["-k", "-i"]], ids=["close", "keep-alive", "head"])
def test_ab_in_http_1_0(site: Site, options: list[str]) -> None:
    output = run("ab", "-q", "-n", "300", "-c", "10", *options, f"{site.url}/gzip")
    assert re.search(r"Complete requests:\s+300\n", output) and re.search(r"Failed requests:\s+0\n", output)
    assert "Non-2xx" not in output
    if options == ["-k"]:
        assert re.search(r"Keep-Alive requests:\s+300\n", output), output


# --- Chromium

BROWSER = """
import sys
from playwright.sync_api import sync_playwright
with sync_playwright() as playwright:
    browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
    page = browser.new_page()
    page.goto(sys.argv[1])
    page.wait_for_function("document.title !== 'running'", timeout=40000)
    print(page.title(), browser.version)
    browser.close()
"""


def test_chromium_uploads_downloads_and_talks(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    output = run("/opt/browser/bin/python", "-c", BROWSER, f"{site.url}/page")
    with capsys.disabled():
        print(f"\nChromium: {output.strip()}")
    assert output.startswith("passed ")


def test_what_was_used(capsys: pytest.CaptureFixture[str]) -> None:
    """Prints the versions, so that the output of the tests says what they were made with."""
    versions = [run("curl", "--version").split("(")[0], f"node {run('node', '--version')}", run("ab", "-V")]
    versions += [f"{each.__name__} {each.__version__}" for each in (requests, httpx, aiohttp, websockets)]
    with capsys.disabled():
        print("\n" + ", ".join(each.split("\n")[0].strip() for each in versions))


# --- where a client comes from


def test_the_app_learns_the_address_of_its_client_as_people_write_it(site: Site) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", timeout=30)
    connection.request("GET", "/", headers={"Host": site.host, "X-Forwarded-For": "192.0.2.1"})
    fields = json.load(connection.getresponse())["fields"]
    assert [value for name, value in fields if name.lower() == "x-forwarded-for"] == ["127.0.0.1"]
