"""A certificate authority and a name server in the box: Debian's pebble and knot, on loopback.

Names below example.test and two customers' zones lead to the box; `elsewhere` to an address that nobody has.
"""

import http.client
import json
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from .conftest import Box, Response

DOMAIN = "example.test"
CUSTOMER = "shop.test"
UMLAUT = "xn--bcher-kva.test"
SERVER = "https://localhost:14000/dir"
LIMITING = "https://localhost:14001/dir"
CREDENTIALS = "/srv/acme/rfc2136.ini"

_SECRET = "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0"
_ZONE = """$ORIGIN {zone}.
$TTL 1
@ SOA ns hostmaster 1 60 60 60 1
@ NS ns
@ A 127.0.0.1
ns A 127.0.0.1
www A 127.0.0.1
notes A 127.0.0.1
*.notes A 127.0.0.1
short A 127.0.0.1
*.short A 127.0.0.1
elsewhere A 192.0.2.1
"""
_KNOT = """server:
    rundir: /srv/acme/run
    listen: 127.0.0.1@53
database:
    storage: /srv/acme/run
key:
  - id: certbot.
    algorithm: hmac-sha512
    secret: {secret}
acl:
  - id: update
    key: certbot.
    action: [update, transfer]
template:
  - id: default
    storage: /srv/acme
    file: "%s.zone"
    acl: update
zone:
{zones}
"""
_CREDENTIALS = """dns_rfc2136_server = 127.0.0.1
dns_rfc2136_port = 53
dns_rfc2136_name = certbot
dns_rfc2136_secret = {secret}
dns_rfc2136_algorithm = HMAC-SHA512
"""
# The authority behind it, but with no orders left today.
_LIMITER = """
import http.client, http.server, ssl
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def relay(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        back = http.client.HTTPSConnection("localhost", 14000, context=ssl.create_default_context())
        back.request(self.command, self.path, body, dict(self.headers))
        answer = back.getresponse()
        status, text, fields = answer.status, answer.read(), dict(answer.getheaders())
        if self.path.startswith("/order-plz"):
            status = 429
            fields["Content-Type"] = "application/problem+json"
            text = (b'{"type": "urn:ietf:params:acme:error:rateLimited", "status": 429, "detail": "too many '
                    b'certificates already issued, retry after 2099-01-02 03:04:05 UTC"}')
        self.send_response(status)
        for name, value in fields.items():
            if name.lower() not in ("content-length", "transfer-encoding", "connection", "date"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)
    do_GET = do_HEAD = do_POST = relay
server = http.server.ThreadingHTTPServer(("127.0.0.1", 14001), Handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("/srv/acme/pebble.crt", "/srv/acme/pebble.key")
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
"""
_START = """set -e
cd /srv/acme
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 -subj /CN=pebble \
    -addext subjectAltName=DNS:localhost -keyout pebble.key -out pebble.crt 2>/dev/null
cp pebble.crt /usr/local/share/ca-certificates/pebble.crt
update-ca-certificates >/dev/null 2>&1
cp /etc/resolv.conf resolv.conf.before
echo nameserver 127.0.0.1 >/etc/resolv.conf
systemd-run -q --collect -u acme-dns knotd -c /srv/acme/knot.conf
systemd-run -q --collect -u acme-ca \
    -E PEBBLE_VA_NOSLEEP=1 -E PEBBLE_AUTHZREUSE=0 -E PEBBLE_WFE_NONCEREJECT=0 \
    pebble -config /srv/acme/pebble.json -dnsserver 127.0.0.1:53
systemd-run -q --collect -u acme-limiter python3 /srv/acme/limiter.py
sed -i 's/^domain = .*/domain = ["localhost", "example.test"]/' /etc/tenement/tenement.d/notes.toml
ten reload
"""
_STOP = """ten tls disable
sed -i 's/^domain = .*/domain = "localhost"/' /etc/tenement/tenement.d/notes.toml
ten reload
systemctl stop acme-limiter acme-ca acme-dns
cp /srv/acme/resolv.conf.before /etc/resolv.conf
rm -rf /srv/acme /etc/letsencrypt /usr/local/share/ca-certificates/pebble.crt
update-ca-certificates >/dev/null 2>&1
"""


@dataclass
class Acme:
    """The authority, as tests see it."""

    box: Box
    root: str = ""

    def enable(self, *options: str, server: str = SERVER, check: bool = True) -> str:
        """`ten tls enable`; what it printed."""
        words = ["ten", "tls", "enable", "--email", f"ops@{DOMAIN}", "--acme-server", server]
        result = self.box.run([*words, "--weekly-limit", "10000", *options], check=check, timeout_s=120)
        if check:
            self.wait_for_workers(DOMAIN)
        return result.stdout + result.stderr

    def status(self, name: str) -> dict[str, object]:
        """What `ten tls status` says of a name; empty if nothing."""
        names = json.loads(self.box.run("ten tls status --json").stdout)["names"]
        return next((entry for entry in names if entry["name"] == name), {})

    def wait_for(self, name: str, state: str = "valid") -> dict[str, object]:
        """Wait until a name is in a state."""

        def there() -> dict[str, object] | None:
            entry = self.status(name)
            return entry if entry.get("state") == state else None

        return self.box.wait_for(there, 40)

    def wait_for_workers(self, name: str) -> None:
        """Wait until every worker accepts a name: until many handshakes in a row succeed."""
        self.box.wait_for(lambda: not any(self.refusal(name) for _ in range(12)), 10)

    def connect(self, name: str | None, *, verify: bool = True, timeout_s: float = 10) -> ssl.SSLSocket:
        """Shake hands with the proxy."""
        context = ssl.create_default_context(cadata=self.root)
        if not verify or name is None:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_alpn_protocols(["h2", "http/1.1"])
        sock = socket.create_connection(("127.0.0.1", 443), timeout=timeout_s)
        try:
            return context.wrap_socket(sock, server_hostname=name)
        except BaseException:
            sock.close()
            raise

    def get(self, name: str | None, path: str = "/", host: str | None = None) -> Response:
        """One request by HTTPS."""
        with self.connect(name) as sock:
            lines = f"GET {path} HTTP/1.1\r\nHost: {host or name}\r\nConnection: close\r\n\r\n"
            sock.sendall(lines.encode())
            answer = http.client.HTTPResponse(sock)
            answer.begin()
            return Response(answer.status, answer.headers, answer.read())

    def serial(self, name: str) -> str:
        """The serial number of the certificate that is served for a name."""
        with self.connect(name) as sock:
            return str((sock.getpeercert() or {})["serialNumber"])

    def refusal(self, name: str | None) -> str:
        """Why a handshake is refused; empty if it is not."""
        try:
            self.connect(name, verify=False).close()
        except ssl.SSLError as error:
            return str(error.reason)
        return ""

    def management(self, path: str) -> str:
        """Ask pebble itself."""
        return self.box.run(f"curl -sS -m 5 https://localhost:15000/{path}").stdout


@contextmanager
def authority(box: Box) -> Iterator[Acme]:
    """An authority that runs, and is gone afterwards with all that it caused."""
    zones = (DOMAIN, CUSTOMER, UMLAUT)
    ca = {
        "listenAddress": "127.0.0.1:14000",
        "managementListenAddress": "127.0.0.1:15000",
        "certificate": "/srv/acme/pebble.crt",
        "privateKey": "/srv/acme/pebble.key",
        "httpPort": 80,
        "tlsPort": 443,
        "ocspResponderURL": "",
        "externalAccountBindingRequired": False,
    }
    listed = "".join(f"  - domain: {zone}\n" for zone in zones)
    files = {zone + ".zone": _ZONE.format(zone=zone) for zone in zones} | {
        "knot.conf": _KNOT.format(secret=_SECRET, zones=listed),
        "pebble.json": json.dumps({"pebble": ca}),
        "rfc2136.ini": _CREDENTIALS.format(secret=_SECRET),
        "limiter.py": _LIMITER,
    }
    box.run("mkdir -p /srv/acme/run")
    for name, text in files.items():
        box.run(f"cat >/srv/acme/{name}", input=text)
    try:
        box.run(_START)
        acme = Acme(box)
        box.wait_for(lambda: box.run("curl -sS -m 5 https://localhost:14000/dir", check=False).stdout, 10)
        acme.root = acme.management("roots/0")
        yield acme
    finally:
        box.run(_STOP, check=False)
