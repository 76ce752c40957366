#!/usr/bin/python3
"""Which methods of the manager the bus lets this user call, as JSON.

    bus.py METHOD...   calls each with an argument that it does not have: whoever may call it is told so, and
                       nothing happens; null if the bus does not even listen

Also tried: to take the manager's name, and to command systemd.
"""

import asyncio
import json
import sys

from dbus_fast import BusType, Message, MessageType
from dbus_fast.aio import MessageBus

Where = tuple[str, str, str]
MANAGER = ("dev.tenement.Manager", "/dev/tenement/Manager", "dev.tenement.Manager1")
SYSTEMD = ("org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager")
BUS = ("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus")


async def call(
    bus: MessageBus, where: tuple[str, str, str], member: str, signature: str, *body: object
) -> str:
    """The name of the error that a call ends in; "" if it works."""
    destination, path, interface = where
    message = Message(
        destination=destination, path=path, interface=interface, member=member, signature=signature,
        body=list(body),
    )  # fmt: skip
    answer = await bus.call(message)
    assert answer is not None
    return answer.error_name if answer.message_type is MessageType.ERROR else ""


async def main() -> None:
    try:
        bus = await MessageBus(bus_type=BusType.SYSTEM).connect()
    except (OSError, EOFError):
        # The bus serves nobody whom it does not know, such as dynamic users.
        print(json.dumps(None))
        return
    outcomes = {name: await call(bus, MANAGER, name, "xx", 1, 1) for name in sys.argv[1:]}
    own = await call(bus, BUS, "RequestName", "su", MANAGER[0], 0)
    properties = (MANAGER[0], MANAGER[1], "org.freedesktop.DBus.Properties")
    systemd = {
        # SIGCONT, which does nothing to who runs.
        "KillUnit": ("ssi", "tenement-manager.service", "all", 18),
        "StartUnit": ("ss", "hostile-test.service", "replace"),
        "StartTransientUnit": ("ssa(sv)a(sa(sv))", "hostile-test.service", "fail", [], []),
        "StopUnit": ("ss", "hostile-test.service", "replace"),
    }
    document = {
        "methods": outcomes,
        "own": own,
        "property": await call(bus, properties, "Get", "ss", MANAGER[2], "Version"),
        "systemd": {name: await call(bus, SYSTEMD, name, *given) for name, given in systemd.items()},
    }
    print(json.dumps(document))
    bus.disconnect()


asyncio.run(main())
