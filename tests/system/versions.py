"""A small app in several versions, for tests that replace one by another."""

from .conftest import Box

RELEASES = ("r1", "r2", "r3", "broken", "sick")

# Answers with the release it runs as, or with what was posted, which it notes in its data. "broken" exits at
# once, "sick" never gets healthy, nor does one whose data has a file called ill. /slow?S takes S seconds, or
# 1.5.
APP = r"""#!/usr/bin/python3 -S
import os, socket, sys, threading, time

data = os.environ["DATA_DIR"]
release = os.path.basename(os.path.dirname(os.path.abspath(sys.argv[0])))
if release == "broken":
    sys.exit("this release is broken")
time.sleep(float(os.environ.get("STARTS_S", 0)))
if "LISTEN_FDS" in os.environ:
    server = socket.socket(fileno=3)
elif "SOCKET_PATH" in os.environ:
    server = socket.socket(socket.AF_UNIX)
    server.bind(os.environ["SOCKET_PATH"])
    server.listen(512)
else:
    server = socket.create_server(("127.0.0.1", int(os.environ["PORT"])), backlog=512)


def serve(connection):
    with connection, connection.makefile("rb") as stream:
        while line := stream.readline().strip():
            length = 0
            while field := stream.readline().strip():
                name, _, value = field.lower().partition(b":")
                length = int(value) if name == b"content-length" else length
            body = stream.read(length)
            if line.startswith(b"GET /slow"):
                time.sleep(float(line.split()[1].partition(b"?")[2] or 1.5))
            ill = release == "sick" or os.path.exists(data + "/ill")
            status = b"503 No" if ill and b"/health" in line else b"200 OK"
            if line.startswith(b"POST"):
                with open(data + "/posts", "ab", 0) as posts:
                    posts.write(body + b"\n")
            body = body or (release + " " + os.environ["INSTANCE_ID"]).encode()
            connection.sendall(b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body))


while True:
    threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()
"""

# Adds a line to the data; refuses to where there is a file called poison.
MIGRATE = """#!/bin/sh
echo "$RELEASE" >>"$DATA_DIR/migrated"
[ ! -e "$DATA_DIR/slow" ] || sleep 2
[ ! -e "$DATA_DIR/poison" ] || { echo "cannot migrate this"; exit 7; }
"""

TOML = """
[service.{name}]
workdir = "/srv/versions/{{release}}"
command = "./app"
health = "/health"
startup_timeout = {startup_timeout}
idle_timeout = 0
{more}
[service.{name}.env]
RELEASE = "{{release}}"
STARTS_S = "{starts_s}"
"""


def install(box: Box, name: str, more: str = "", startup_timeout: int = 20, starts_s: float = 0.0) -> None:
    """Put the releases in place and configure service `name`, whose app takes `starts_s` until it listens."""
    for file, text in (("app", APP), ("migrate", MIGRATE)):
        box.run(
            f"cat >/tmp/{file}; for r in {' '.join(RELEASES)}; do "
            f"install -D -m 755 /tmp/{file} /srv/versions/$r/{file}; done; chmod 755 /srv/versions",
            input=text,
        )
    box.write_config(
        name, TOML.format(name=name, more=more, startup_timeout=startup_timeout, starts_s=starts_s)
    )
