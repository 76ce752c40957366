"""What systemd's property changes mean for a tenant. Pure.

systemd announces each change of a unit twice: first its service properties (exit status, main PID), then its
unit properties (state). So when the second arrives, the facts of both are complete.
"""

import signal
from dataclasses import dataclass, field
from typing import Any, Final

from tenement.lifecycle import Died, Event, Goal, Leave, Restarted, State

# Exit codes of systemd's own, when it could not run the program at all (systemd.exec(5), "Process Exit
# Codes").
_EXEC_FAILURES: Final = {
    200: "the working directory cannot be entered",
    202: "a file descriptor could not be set up",
    203: "the program cannot be run: it does not exist, or is not executable",
    205: "a resource limit could not be set",
    217: "the user could not be made",
    226: "the sandbox could not be built",
    228: "the system call filter could not be set up",
    231: "a credential could not be loaded",
    238: "the data directory could not be made",
    243: "a credential could not be loaded",
}
_RESULTS: Final = {
    "oom-kill": "ran out of memory",
    "watchdog": "watchdog timeout",
    "start-limit-hit": "failed too often in a short time",
    "resources": "systemd could not set it up",
    "timeout": "did not stop in time",
    "protocol": "did not start properly",
}
_CLD_EXITED: Final = 1
# Between a death and the next start; in the first two, ActiveState= says "inactive" or "failed" for a moment.
_RESTARTING: Final = frozenset(
    {"dead-before-auto-restart", "failed-before-auto-restart", "auto-restart", "auto-restart-queued"}
)
_WANTED: Final = frozenset(
    {
        "ActiveState",
        "SubState",
        "FreezerState",
        "InvocationID",
        "Result",
        "ExecMainCode",
        "ExecMainStatus",
        "MainPID",
        "NRestarts",
        "UID",
    }
)


@dataclass(slots=True)
class Facts:
    """What systemd said about a tenant's unit, as far as it matters here.

    `previous` is the invocation before this start, whose last changes may still be on their way; `invocation`
    is the one that was last seen active.
    """

    values: dict[str, Any] = field(default_factory=dict)
    previous: str | None = None
    invocation: str | None = None

    def update(self, changed: dict[str, Any]) -> None:
        """Take in properties that changed."""
        self.values.update((name, value) for name, value in changed.items() if name in _WANTED)

    @property
    def active(self) -> str:
        """The unit's ActiveState; "inactive" if it is not known."""
        return str(self.values.get("ActiveState", "inactive"))

    @property
    def sub(self) -> str:
        """The unit's SubState."""
        return str(self.values.get("SubState", "dead"))

    @property
    def uid(self) -> int | None:
        """The user the unit runs as; None until systemd has told."""
        uid = self.values.get("UID")
        return None if uid is None or uid == 2**32 - 1 else int(uid)

    @property
    def restarting(self) -> bool:
        """Whether systemd will start the unit again by itself."""
        return self.sub in _RESTARTING

    def invocation_id(self) -> str | None:
        """The InvocationID as journalctl prints it; None if the unit is not started."""
        raw = self.values.get("InvocationID")
        return bytes(raw).hex() if raw else None

    def reason(self) -> str:
        """Why the unit's process ended, for people."""
        result = str(self.values.get("Result", "success"))
        status = int(self.values.get("ExecMainStatus", 0))
        if result in _RESULTS:
            return _RESULTS[result]
        code = int(self.values.get("ExecMainCode", 0))
        if code == _CLD_EXITED or result == "exit-code":
            if explanation := _EXEC_FAILURES.get(status):
                return f"exited with status {status}: {explanation}"
            return f"exited with status {status}"
        if status:
            try:
                return f"killed by {signal.Signals(status).name}"
            except ValueError:
                return f"killed by signal {status}"
        return "exited" if result == "success" else result


def judge(state: State, facts: Facts, backoff_max_s: float) -> list[Event]:
    """What happened to a tenant in `state`, its unit being as `facts` tell; sets `facts.invocation`."""
    if state in (State.ASLEEP, State.QUEUED, State.DISABLED, State.FAILED, State.STOPPING, State.GONE):
        return []
    if facts.invocation_id() in (None, facts.previous):
        return []
    if facts.restarting:
        return [Died(facts.reason(), restarts=True)]
    match facts.active:
        case "active" | "reloading":
            return _active(state, facts)
        case "failed":
            return [Died(facts.reason(), restarts=False, retry_after_s=backoff_max_s)]
        case "inactive" if not facts.values.get("MainPID"):
            # With a main process it is only on its way up: systemd announces the process before the state.
            clean = facts.values.get("Result", "success") == "success"
            return [Died(facts.reason(), restarts=False, clean=clean, retry_after_s=1.0)]
        case "deactivating":
            # With the main process alive this is a stop that somebody else asked for; without, a crash under
            # way.
            if facts.values.get("MainPID") and state not in (State.ARMING, State.ARMED, State.DRAINING):
                return [Leave(Goal.SLEEP, "stopped through systemd")]
    return []


def _active(state: State, facts: Facts) -> list[Event]:
    current = facts.invocation_id()
    known, facts.invocation = facts.invocation, current
    if state is State.BACKOFF:
        return [Restarted()]
    if known is not None and current is not None and known != current:
        # It died and came back between two looks.
        return [Died("restarted", restarts=True), Restarted()]
    return []
