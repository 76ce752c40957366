"""dev.tenement.Manager1 on the system bus: takes calls apart, calls the manager, answers.

Who may call what is decided by the bus policy (dev.tenement.Manager.conf) before a message arrives here, and
for some callers by polkit (see Authority) before it is answered.
"""

import asyncio
import logging
import os
import sqlite3
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final, NamedTuple

from dbus_fast import Message, MessageFlag, MessageType, Variant
from dbus_fast.aio import MessageBus

from tenement import __version__
from tenement.errors import Internal, TenementError
from tenement.manager.authority import Authority

log = logging.getLogger(__name__)

NAME: Final = "dev.tenement.Manager"
PATH: Final = "/dev/tenement/Manager"
INTERFACE: Final = "dev.tenement.Manager1"
_PROPERTIES: Final = "org.freedesktop.DBus.Properties"
_INTROSPECTABLE: Final = "org.freedesktop.DBus.Introspectable"
_PEER: Final = "org.freedesktop.DBus.Peer"


class Argument(NamedTuple):
    """One argument of a method or signal."""

    name: str
    signature: str


class Method(NamedTuple):
    """A method: what goes in, what comes out, and who answers: it gets the caller's unique name first."""

    name: str
    inputs: tuple[Argument, ...]
    outputs: tuple[Argument, ...]
    handler: Callable[..., Awaitable[list[Any]]]


class Signal(NamedTuple):
    """A signal and its arguments."""

    name: str
    arguments: tuple[Argument, ...]


TENANT: Final = (Argument("service", "s"), Argument("id", "s"))
SIGNALS: Final = (
    Signal("Revoked", (*TENANT, Argument("generation", "t"), Argument("reason", "s"))),
    Signal("RoutesChanged", (Argument("serial", "t"), Argument("change", "s"))),
)


def arguments(text: str) -> tuple[Argument, ...]:
    """Arguments written as in D-Bus documentation: "s service, s id"."""
    pairs = (part.split() for part in text.split(",") if part.strip())
    return tuple(Argument(name, signature) for signature, name in pairs)


class BusService:
    """Serves the methods to callers. Every call runs as a task of its own, owned here."""

    def __init__(self, bus: MessageBus, methods: list[Method], authority: Authority) -> None:
        self._bus = bus
        self._authority = authority
        self._methods = {method.name: method for method in methods}
        self._tasks: set[asyncio.Task[None]] = set()
        bus.add_message_handler(self._on_message)

    async def close(self) -> None:
        """Take no more calls, cancel those under way and wait for them."""
        self._bus.remove_message_handler(self._on_message)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def emit(self, name: str, body: list[Any]) -> None:
        """Send one of SIGNALS."""
        signal = next(signal for signal in SIGNALS if signal.name == name)
        self._bus.send(Message.new_signal(PATH, INTERFACE, name, _signature(signal.arguments), body))

    def introspection(self) -> str:
        """The XML that describes the object. See the D-Bus specification, "Introspection Data Format"."""
        lines = ["<node>", f' <interface name="{INTERFACE}">']
        for method in self._methods.values():
            lines.append(f'  <method name="{method.name}">')
            for direction, described in (("in", method.inputs), ("out", method.outputs)):
                lines += [
                    f'   <arg direction="{direction}" type="{argument.signature}" name="{argument.name}"/>'
                    for argument in described
                ]
            lines.append("  </method>")
        for signal in SIGNALS:
            lines.append(f'  <signal name="{signal.name}">')
            lines += [
                f'   <arg type="{argument.signature}" name="{argument.name}"/>'
                for argument in signal.arguments
            ]
            lines.append("  </signal>")
        lines += [
            '  <property name="Version" type="s" access="read"/>',
            " </interface>",
            _STANDARD_INTERFACES,
            "</node>",
        ]
        return "\n".join(lines)

    def _on_message(self, message: Message) -> Message | bool | None:
        if message.message_type is not MessageType.METHOD_CALL or message.path not in (
            PATH,
            "/",
            "/dev",
            "/dev/tenement",
        ):
            return None
        if message.interface == _INTROSPECTABLE:
            return Message.new_method_return(message, "s", [self._describe(message.path)])
        if message.path != PATH or message.interface == _PEER:
            return None
        if message.interface == _PROPERTIES:
            return self._property(message)
        method = self._methods.get(message.member or "")
        if message.interface not in (INTERFACE, None) or method is None:
            return Message.new_error(
                message,
                "org.freedesktop.DBus.Error.UnknownMethod",
                f"{INTERFACE} has no method {message.member}",
            )
        task = asyncio.create_task(self._answer(message, method))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return True

    async def _answer(self, message: Message, method: Method) -> None:
        try:
            await self._authority.check(message)
            if wrong := _signature_fault(message, method):
                reply = Message.new_error(message, "org.freedesktop.DBus.Error.InvalidArgs", wrong)
            else:
                body = await method.handler(message.sender, *message.body)
                signature = _signature(method.outputs)
                if signature == "h":
                    await self._answer_with_fd(message, *body)
                    return
                reply = Message.new_method_return(message, signature, body)
        except TenementError as error:
            reply = Message.new_error(message, error.dbus_name, str(error))
        except sqlite3.Error as error:
            log.error("%s: the registry: %s", method.name, error)
            fault = Internal(f"the registry in /var/lib/tenement-manager cannot be used: {error}")
            reply = Message.new_error(message, fault.dbus_name, str(fault))
        except Exception:
            log.exception("%s failed", method.name)
            fault = Internal(
                f"{method.name} failed inside the manager. See 'journalctl -u tenement-manager'."
            )
            reply = Message.new_error(message, fault.dbus_name, str(fault))
        if not message.flags & MessageFlag.NO_REPLY_EXPECTED:
            # The bus refuses answers that nobody waits for, and says so in the journal each time.
            self._bus.send(reply)

    async def _answer_with_fd(self, message: Message, fd: int) -> None:
        """Answer with a file descriptor, which is ours no longer once it is sent."""
        try:
            await self._bus.send(Message.new_method_return(message, "h", [0], [fd]))
        finally:
            os.close(fd)

    def _property(self, message: Message) -> Message:
        match message.member, message.body:
            case "Get", [_, "Version"]:
                return Message.new_method_return(message, "v", [Variant("s", __version__)])
            case "GetAll", [_]:
                return Message.new_method_return(message, "a{sv}", [{"Version": Variant("s", __version__)}])
            case "Set", _:
                error, text = "PropertyReadOnly", "Version can only be read"
            case _:
                error, text = "UnknownProperty", "the only property is Version"
        return Message.new_error(message, f"org.freedesktop.DBus.Error.{error}", text)

    def _describe(self, path: str | None) -> str:
        if path == PATH:
            return self.introspection()
        rest = PATH.removeprefix(path or "/").strip("/").partition("/")[0]
        return f'<node><node name="{rest}"/></node>'


def _signature(arguments: Iterable[Argument]) -> str:
    return "".join(argument.signature for argument in arguments)


def _signature_fault(message: Message, method: Method) -> str | None:
    """What is wrong with the types of a call's arguments."""
    expected = _signature(method.inputs)
    if message.signature == expected:
        return None
    return f"{method.name} takes the signature '{expected}', not '{message.signature}'"


_STANDARD_INTERFACES: Final = f""" <interface name="{_PROPERTIES}">
  <method name="Get">
   <arg direction="in" type="s" name="interface"/>
   <arg direction="in" type="s" name="name"/>
   <arg direction="out" type="v" name="value"/>
  </method>
  <method name="GetAll">
   <arg direction="in" type="s" name="interface"/>
   <arg direction="out" type="a{{sv}}" name="values"/>
  </method>
 </interface>
 <interface name="{_INTROSPECTABLE}">
  <method name="Introspect"><arg direction="out" type="s" name="xml"/></method>
 </interface>
 <interface name="{_PEER}"><method name="Ping"/></interface>"""
