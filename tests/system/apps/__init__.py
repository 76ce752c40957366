"""The app of the system tests, and how it is made a service."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ..conftest import Box, Response

PROGRAM: Final = "/src/tests/system/apps/app.py"
"""Where the app lies in the box."""


def toml(service: str, *, env: dict[str, object] | None = None, **settings: object) -> str:
    """Configuration of a service that runs the app; `env` says how it behaves (see app.py)."""
    lines = [f"[service.{service}]", f'command = ["/usr/bin/python3", "-IS", "{PROGRAM}"]']
    lines += [f"{key} = {json.dumps(value)}" for key, value in settings.items()]
    if env:
        lines.append(f"[service.{service}.env]")
        lines += [f"{key} = {json.dumps(str(value))}" for key, value in env.items()]
    return "\n".join(lines) + "\n"


@dataclass(frozen=True, slots=True)
class Answer:
    """What the app says of a request: what arrived, how many requests it had, and who it is."""

    digest: str
    length: int
    count: int
    target: str
    tenant: str
    pid: int
    invocation: str
    well_since: float
    """When its health was no longer 503, by the monotonic clock, which the box shares with the tests."""

    @classmethod
    def of(cls, response: Response) -> "Answer":
        """Read the app's answer; anything but a 200 of its own fails the test."""
        assert response.status == 200, (response.status, response.body[:500])
        return cls(**json.loads(response.body))


@dataclass(frozen=True, slots=True)
class Tenant:
    """A tenant of a test, in the box."""

    box: Box
    name: str

    @property
    def service(self) -> str:
        return self.name.partition(":")[0]

    @property
    def id(self) -> str:
        return self.name.partition(":")[2]

    @property
    def host(self) -> str:
        return f"{self.id}.{self.service}.localhost"

    @property
    def unit(self) -> str:
        return f"tenement-{self.service}@{self.id}.service"

    def get(self, path: str = "/", **options: Any) -> Answer:
        """Send one request and read the app's answer to it."""
        return Answer.of(self.box.http(self.host, path, **options))

    def status(self) -> dict[str, Any]:
        """Everything that `ten status` knows."""
        return dict(json.loads(self.box.run(["ten", "status", "--json", self.name]).stdout)[0])

    def state(self) -> str:
        """The state as the manager has it, without the cost of starting `ten`."""
        call = "busctl --json=short call dev.tenement.Manager /dev/tenement/Manager dev.tenement.Manager1"
        answer = json.loads(self.box.run(f"{call} List s {self.name}").stdout)
        return str(json.loads(answer["data"][0])[0]["state"])

    def wait(self, *states: str, timeout_s: float = 15) -> str:
        """Wait until the tenant is in one of the states."""
        __tracebackhide__ = True

        def reached() -> str:
            return state if (state := self.state()) in states else ""

        return self.box.wait_for(reached, timeout_s)

    def show(self, *properties: str) -> list[str]:
        """Properties of the unit, as systemctl prints them, in the order asked for."""
        return [
            self.box.run(["systemctl", "show", "--value", "-p", each, self.unit]).stdout.strip()
            for each in properties
        ]

    @property
    def cgroup(self) -> Path:
        """The unit's cgroup, outside."""
        name = f"tenement-{self.service.replace('-', r'\x2d')}.slice"
        return self.box.cgroup / "tenement.slice" / name / self.unit

    def frozen(self) -> bool:
        """Whether the kernel keeps the unit's processes from running."""
        return "frozen 1" in (self.cgroup / "cgroup.events").read_text()

    def processes(self) -> list[int]:
        """The processes in the unit's cgroup."""
        procs = self.cgroup / "cgroup.procs"
        return [int(pid) for pid in procs.read_text().split()] if procs.exists() else []

    def starts(self) -> list[str]:
        """The invocation ids of all starts of the unit in this boot, oldest first."""
        listed = self.box.run(
            ["journalctl", "-b", "-o", "json", "--output-fields=INVOCATION_ID", f"UNIT={self.unit}",
             "JOB_TYPE=start", "JOB_RESULT=done"]
        ).stdout  # fmt: skip
        ids = [json.loads(line).get("INVOCATION_ID", "") for line in listed.splitlines()]
        return list(dict.fromkeys(each for each in ids if each))


ASLEEP: Final = ("asleep", "arming", "armed")
"""States of a tenant that has no process of its app."""
