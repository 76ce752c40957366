"""The content of answers and requests, as types: they check what comes in and describe both in OpenAPI."""

from typing import Annotated, Any, Final, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from tenement.api.operation import Strict
from tenement.manager.log_streams import LEVELS
from tenement.tokens import NAME_MAX, NAME_PATTERN

Label = Annotated[str, Meta(pattern=r"^(?!..--)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$", max_length=63)]
_PART = r"(?!..--)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
Tenant = Annotated[str, Meta(pattern=rf"^{_PART}:{_PART}$", max_length=127)]
Selector = Annotated[str, Meta(pattern=rf"^{_PART}(:{_PART})?$", max_length=127)]
# Names with other characters are given in their ASCII form (xn--...).
DomainName = Annotated[
    str,
    Meta(pattern=r"^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z]([a-z0-9-]{0,61}[a-z0-9])?$", max_length=253),
]
# To JSON, 100.0 is as whole a number as 100 (JSON Schema, 6.1.1 of its validation part).
Weight = Annotated[float, Meta(ge=0, le=1_000_000, multiple_of=1)]
Number = float | None
State = Literal[
    "asleep",
    "queued",
    "arming",
    "armed",
    "starting",
    "running",
    "freezing",
    "frozen",
    "thawing",
    "draining",
    "stopping",
    "backoff",
    "failed",
    "disabled",
    "gone",
]


class Instance(Struct, kw_only=True):
    """A tenant. Times are seconds since 1970; fields that do not apply are null."""

    tenant: str
    service: str
    id: str
    state: State
    since: Number
    reason: str | None
    health: str | None = None
    enabled: bool
    weight: int
    generation: int | None
    address: str | None
    unit: str
    url: str
    leases: int
    last_used: Number


class InstanceDetail(Instance, kw_only=True):
    """Everything about a tenant, its unit's own numbers included."""

    created: Number
    user: str
    slice: str
    data_dir: str
    invocation_id: str | None
    main_pid: int | None
    restarts: int | None
    result: str | None
    exit_status: int | None
    memory_bytes: int | None
    cpu_usec: int | None
    tasks: int | None
    last_line: str | None


class Health(Struct, kw_only=True):
    """How a tenant is: "healthy", "degraded" or "unhealthy" while it runs, else its state."""

    tenant: str
    state: State
    health: str
    reason: str | None


class Storage(Struct, kw_only=True):
    """The room that a tenant's data takes."""

    tenant: str
    bytes: int
    files: int
    quota_bytes: int | None
    measured: float


class Usage(Struct, kw_only=True):
    """What a tenant uses and has answered so far; null is what the kernel does not count."""

    tenant: str
    state: State
    time: float
    leases: int
    requests: int
    errors: int
    sent_bytes: int
    cpu_usec: int | None
    memory_bytes: int | None
    tasks: int | None


class Event(Struct, kw_only=True):
    """Something that happened to a tenant, or that somebody did."""

    time: float
    tenant: str
    what: str
    why: str | None
    who: str | None


class LogLine(Struct, kw_only=True):
    """A line that a tenant printed, or that systemd said of it. `cursor` names it in the journal."""

    timestamp: float
    level: str
    service: str
    id: str
    message: str
    cursor: str


class Token(Struct, kw_only=True):
    """A token; its text is shown once, when it is made."""

    id: str
    name: str
    scope: Literal["admin", "tenant", "metrics"]
    tenant: str | None
    created: float
    expires: Number


class NewToken(Token, kw_only=True):
    """A token with its text."""

    token: str


class ReloadReport(Struct, kw_only=True):
    """What a reload changed."""

    changed: list[str]
    warnings: list[str]


class Version(Struct, kw_only=True):
    """The version that runs."""

    version: str


class Alive(Struct, kw_only=True):
    """The API is there."""

    status: Literal["ok"]


class Problem(Struct, kw_only=True):
    """Problem details, RFC 9457."""

    type: str
    title: str
    status: int
    detail: str
    tenant: str | UnsetType = UNSET
    problems: list[str] | UnsetType = UNSET


class ListQuery(Strict, frozen=True, kw_only=True):
    """Which tenants; `search` is found in the name, `offset` skips so many. The next page is in `Link`."""

    service: Label | UnsetType = UNSET
    state: State | UnsetType = UNSET
    search: Annotated[str, Meta(max_length=130)] = ""
    sort: Literal["tenant", "-tenant", "state", "since", "-since", "last_used", "-last_used"] = "tenant"
    limit: Annotated[int, Meta(ge=1, le=20_000)] = 1000
    offset: Annotated[int, Meta(ge=0, le=1_000_000)] = 0


class SpawnBody(Strict, frozen=True, kw_only=True):
    """A tenant to make. `process` is another name for `service`."""

    service: Label | UnsetType = UNSET
    process: Label | UnsetType = UNSET
    id: Label
    start: bool = True


EitherService = Annotated[
    SpawnBody, Meta(extra_json_schema={"oneOf": [{"required": ["service"]}, {"required": ["process"]}]})
]


class SpawnAnswer(Struct, kw_only=True):
    """The tenant that was made; `port` and `socket` are set if it was started and has one."""

    instance: str
    url: str
    state: str
    port: int | None
    socket: str | None


class WeightBody(Strict, frozen=True, kw_only=True):
    """A share of the requests for the service as a whole."""

    weight: Weight


class ChangeBody(Strict, frozen=True, kw_only=True):
    """What to change; what is left out stays."""

    weight: Weight | UnsetType = UNSET
    enabled: bool | UnsetType = UNSET


class RemoveQuery(Strict, frozen=True, kw_only=True):
    """Whether the data is deleted too."""

    purge: bool = False


class LogQuery(Strict, frozen=True, kw_only=True):
    """Which lines: of a tenant, or without `id` of a whole service.

    `since` is in seconds since 1970, `level` stands for itself and the more urgent ones, `search` is found in
    the message, upper and lower case being the same.
    """

    service: Label
    id: Label | UnsetType = UNSET
    level: Literal[LEVELS] | UnsetType = UNSET  # type: ignore[valid-type]
    search: Annotated[str, Meta(max_length=500)] = ""
    limit: Annotated[int, Meta(ge=1, le=10_000)] = 100
    since: Annotated[float, Meta(ge=0, le=1e11)] = 0.0


class EventQuery(Strict, frozen=True, kw_only=True):
    """Whose events; without a tenant, everybody's."""

    tenant: Annotated[str, Meta(max_length=130)] = ""
    limit: Annotated[int, Meta(ge=1, le=1000)] = 100


class DeployBody(Strict, frozen=True, kw_only=True):
    """A version to start. `process` and `version` are other names for `service` and `id`.

    `timeout` is in seconds; 0 stands for the service's `startup_timeout`.
    """

    service: Label | UnsetType = UNSET
    process: Label | UnsetType = UNSET
    id: Label | UnsetType = UNSET
    version: Label | UnsetType = UNSET
    weight: Weight = 100
    timeout: Annotated[float, Meta(ge=0, le=3600)] = 30.0


EitherDeploy = Annotated[
    DeployBody,
    Meta(
        extra_json_schema={
            "allOf": [
                {"oneOf": [{"required": ["service"]}, {"required": ["process"]}]},
                {"oneOf": [{"required": ["id"]}, {"required": ["version"]}]},
            ]
        }
    ),
]


class DeployAnswer(Struct, kw_only=True):
    """The version that was started."""

    instance: str
    weight: int
    status: str


class RouteBody(Strict, frozen=True, kw_only=True, rename={"from_": "from"}):
    """Where requests went, and where they go now: ids of tenants."""

    service: Label | UnsetType = UNSET
    process: Label | UnsetType = UNSET
    from_: Label
    to: Label


EitherRoute = Annotated[
    RouteBody, Meta(extra_json_schema={"oneOf": [{"required": ["service"]}, {"required": ["process"]}]})
]


class RouteAnswer(Struct, kw_only=True):
    """The weights after the move."""

    from_instance: str
    to_instance: str
    from_weight: int
    to_weight: int


class RolloutBody(Strict, frozen=True, kw_only=True):
    """A service, or one tenant, and the release to move it to; "" and 0 stand for the defaults."""

    selector: Selector
    release: Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,99}$", max_length=100)]
    canary: Annotated[str, Meta(pattern=r"^([1-9][0-9]{0,5}|[1-9][0-9]?%|100%)?$", max_length=6)] = ""
    batch: Annotated[float, Meta(ge=0, le=100_000, multiple_of=1)] = 0
    pause_after: Literal["", "canary"] = ""


class Domain(Struct, kw_only=True):
    """A custom domain and the tenant that it leads to."""

    domain: str
    tenant: str


class DomainQuery(Strict, frozen=True, kw_only=True):
    """Whose domains; without it, all."""

    selector: Annotated[str, Meta(max_length=130)] = ""


class DomainBody(Strict, frozen=True, kw_only=True):
    """A domain and the tenant to give it to."""

    tenant: Tenant
    domain: DomainName


class TokenBody(Strict, frozen=True, kw_only=True):
    """A token to make: an administrator's, a tenant's, or one that reads /metrics.

    `expires_s` is its lifetime in seconds; without it, it never ends.
    """

    scope: Literal["admin", "tenant", "metrics"] = "admin"
    tenant: Tenant | UnsetType = UNSET
    name: Annotated[str, Meta(max_length=NAME_MAX, pattern=NAME_PATTERN)] = ""
    expires_s: Annotated[float, Meta(gt=0, le=315_360_000)] | None = None


NEW_TOKEN: Final = Annotated[
    TokenBody,
    Meta(
        extra_json_schema={
            "if": {"properties": {"scope": {"const": "tenant"}}, "required": ["scope"]},
            "then": {"required": ["tenant"]},
            "else": {"properties": {"tenant": False}},
        }
    ),
]
"""A tenant goes with its own scope, and with no other; the manager sees to it."""


Document = dict[str, Any]
