"""Every setting of tenement, declared once: name, type, limits, default and help.

The parser, the reference page tenement.toml(5) and `ten config show` all work from these declarations.
In code a setting that is a span of time ends in `_s` and is in seconds; in the file it has no such ending
(`idle_timeout`).
"""

from typing import Annotated, Any, Final, Literal

from msgspec import Meta, Struct, field

from tenement.names import TenantName

YEAR_S: Final = 365 * 86400.0


def _key(attribute: str) -> str:
    """The key in the file of an attribute."""
    return attribute.removesuffix("_s")


def _time(description: str, *, ge: float = 0.0, le: float = YEAR_S) -> Meta:
    return Meta(description=description, ge=ge, le=le, extra={"kind": "duration"})


def _of_kind(kind: str, description: str) -> Meta:
    return Meta(description=description, extra={"kind": kind})


class Settings(Struct, frozen=True, kw_only=True, rename=_key):
    """`[settings]`: what concerns the whole host."""

    domains: Annotated[
        tuple[str, ...],
        _of_kind(
            "domains",
            "The base domain, or a list of them. Tenant notes:alice is reached at alice.notes.DOMAIN; the "
            "first one is used where one has to be chosen, as in the address that `ten spawn` prints.",
        ),
    ] = field(default=("localhost",), name="domain")
    armed_max: Annotated[
        int,
        Meta(
            description="How many sleeping tenants, the most recently used, are kept armed: their sandbox "
            "is built and only the app is missing, so that they wake faster. 0 arms none.",
            ge=0,
            le=100_000,
        ),
    ] = 100
    max_concurrent_starts: Annotated[
        int,
        Meta(
            description="How many tenants may be starting at a time; others wait in order. 0 means twice "
            "the cores.",
            ge=0,
            le=10_000,
        ),
    ] = 0
    max_running: Annotated[
        int,
        Meta(
            description="How many tenants of all services may run at a time; beyond it the longest idle is "
            "put to sleep. 0 means no limit.",
            ge=0,
            le=1_000_000,
        ),
    ] = 0
    trusted_proxies: Annotated[
        tuple[str, ...],
        _of_kind(
            "networks",
            "Addresses or networks (10.0.0.0/8) of proxies in front of this server. Only from these are "
            "X-Forwarded-For, X-Forwarded-Proto, X-Forwarded-Host and Forwarded believed and appended to.",
        ),
    ] = ()
    proxy_protocol_from: Annotated[
        tuple[str, ...],
        _of_kind(
            "networks",
            "Addresses or networks of load balancers that announce each client by a header of the PROXY "
            "protocol, version 1 or 2, on ports 80 and 443. Every connection from these must begin with "
            "one, no other may; the address in it is the client's in X-Forwarded-For and in the log.",
        ),
    ] = ()
    dashboard: Annotated[
        bool,
        Meta(
            description="Serve the dashboard at the base domain. Without it the HTTP API and /metrics remain."
        ),
    ] = True
    metrics_allow: Annotated[
        tuple[str, ...],
        _of_kind(
            "networks",
            "Addresses or networks that may read /metrics without a token. All others need one, made with "
            "`ten token create --scope metrics`.",
        ),
    ] = ()
    metrics_per_tenant: Annotated[
        bool,
        Meta(
            description="Give numbers for every tenant in /metrics, not only for every service: some thirty "
            "series more for each tenant that gets requests."
        ),
    ] = False
    access_log: Annotated[
        Literal["off", "errors", "all"],
        Meta(
            description="Which requests are written to the journal: none, those answered 500 and above, or "
            "all."
        ),
    ] = "errors"


class Credential(Struct, frozen=True, kw_only=True):
    """One secret of a service; exactly one of the three is set. See `[service.NAME.credentials]`."""

    path: str | None = None
    encrypted_path: str | None = None
    encrypted_value: str | None = None


class Service(Struct, frozen=True, kw_only=True, rename=_key):
    """`[service.NAME]`: how the tenants of one service run."""

    name: Annotated[str, Meta(extra={"kind": "fixed"})] = ""
    command: Annotated[
        tuple[str, ...],
        _of_kind(
            "command",
            "The program and its first arguments; required. A string is split at spaces, with quotes as in "
            "a shell, but no shell runs it; a list is taken as it is. A program with a slash is absolute or "
            "relative to `workdir`; one without is looked for in /usr/local/sbin, /usr/local/bin, /usr/sbin "
            "and /usr/bin.",
        ),
    ] = ()
    args: Annotated[tuple[str, ...], _of_kind("arguments", "More arguments, after those in `command`.")] = ()
    workdir: Annotated[
        str | None,
        _of_kind(
            "path",
            "The directory the app is started in, an absolute path. Without it, the tenant's own data "
            "directory.",
        ),
    ] = None
    pre_release: Annotated[
        tuple[str, ...],
        _of_kind(
            "optional_command",
            "A command that prepares a tenant's data for a release, say by migrating its database. `ten "
            "rollout` runs it once for each tenant, stopped, in its sandbox and with its environment, before "
            "its first start on the release. The data is copied before, and put back if the command or that "
            "start fails.",
        ),
    ] = ()
    pre_release_timeout_s: Annotated[
        float, _time("How long `pre_release` may take for one tenant.", ge=1.0, le=86400.0)
    ] = 600.0
    overlap: Annotated[
        bool,
        Meta(
            description="Whether a tenant that runs is replaced without a pause, in rollouts and by `ten "
            "restart`: a second copy of the app is started beside the first, with the same data, and takes "
            "over once it is ready. Without it, requests wait for the stop and the start. The app must bear "
            "running twice on its data for a while, and both releases must bear each other."
        ),
    ] = False
    listen: Annotated[
        Literal["port", "socket", "fd"],
        Meta(
            description="How the app accepts connections: on 127.0.0.1:$PORT, on the unix socket "
            "$SOCKET_PATH, or on an already listening socket handed to it (LISTEN_FDS, see "
            "sd_listen_fds(3))."
        ),
    ] = "port"
    health: Annotated[
        str | None,
        _of_kind(
            "url_path",
            "A path, such as /health, where the app answers 2xx when it can serve. Without it, accepting "
            "connections is enough.",
        ),
    ] = None
    health_check_interval_s: Annotated[
        float,
        _time(
            "How often `health` is asked while the tenant runs; after three failures in a row it is "
            "restarted. 0 turns this off."
        ),
    ] = 30.0
    startup_timeout_s: Annotated[
        float, _time("How long a start may take until the app is ready.", ge=0.1, le=3600.0)
    ] = 30.0
    stop_timeout_s: Annotated[
        float,
        _time(
            "How long the app may take to exit after SIGTERM; then its processes are killed.",
            ge=0.1,
            le=3600.0,
        ),
    ] = 10.0
    idle_timeout_s: Annotated[
        float,
        _time(
            "After this time without a request or an open connection the tenant is put to sleep. 0 means "
            "never."
        ),
    ] = 300.0
    freeze_timeout_s: Annotated[
        float,
        _time(
            "After this time without a request the tenant is frozen: it uses no CPU time, keeps its "
            "connections, and goes on within milliseconds. Must be shorter than `idle_timeout`. 0 turns "
            "freezing off."
        ),
    ] = 0.0
    idle_ignores_upgrades: Annotated[
        bool,
        Meta(
            description="Open WebSockets and other upgraded connections do not keep the tenant awake; they "
            "are closed when it is put to sleep."
        ),
    ] = False
    request_timeout_s: Annotated[
        float,
        _time(
            "How long the app may take to begin its answer, and later between two parts of it; then the "
            "client gets 504. 0 means no limit."
        ),
    ] = 60.0
    drain_timeout_s: Annotated[
        float,
        _time(
            "How long requests in flight may go on when the tenant is stopped, restarted or replaced; then "
            "they are cut.",
            le=86400.0,
        ),
    ] = 30.0
    isolation: Annotated[
        Literal["namespace", "process"],
        Meta(
            description='"namespace" is the full sandbox. "process" leaves out everything that needs '
            "namespaces, for debugging only: tenants then see each other's processes and the host's files."
        ),
    ] = "namespace"
    network: Annotated[
        Literal["host", "none"],
        Meta(
            description='"host" lets the app connect out to the internet, but not to other tenants or the '
            'host. "none" takes all of it away; then `listen` must be "socket" or "fd".'
        ),
    ] = "host"
    memory_deny_write_execute: Annotated[
        bool,
        Meta(
            description="Forbids memory that is writable and executable. Works with Python and Go, not with "
            "Node, Java or other compilers at run time."
        ),
    ] = False
    restart: Annotated[
        Literal["on-failure", "always", "no"],
        Meta(
            description="When an app that ended by itself is started again: after failures, always, or "
            "never before the next request."
        ),
    ] = "on-failure"
    max_restarts: Annotated[
        int,
        Meta(
            description="How many starts within `restart_window` before the tenant counts as failed. 0 "
            "means no limit.",
            ge=0,
            le=10_000,
        ),
    ] = 5
    restart_window_s: Annotated[float, _time("The time over which `max_restarts` counts.", ge=1.0)] = 60.0
    backoff_base_ms: Annotated[
        int,
        Meta(
            description="The pause before the first restart, in milliseconds; it grows up to "
            "`backoff_max_ms`.",
            ge=1,
            le=3_600_000,
        ),
    ] = 200
    backoff_max_ms: Annotated[
        int, Meta(description="The longest pause before a restart, in milliseconds.", ge=1, le=86_400_000)
    ] = 10_000
    memory_limit_mb: Annotated[
        int,
        Meta(
            description="MiB of memory a tenant may use before it is killed (MemoryMax=). 0 means no limit.",
            ge=0,
            le=16_777_216,
        ),
    ] = 512
    memory_high_mb: Annotated[
        int,
        Meta(
            description="MiB of memory beyond which a tenant is slowed down and its memory reclaimed "
            "(MemoryHigh=). 0 means no limit.",
            ge=0,
            le=16_777_216,
        ),
    ] = 0
    cpu_shares: Annotated[
        int,
        Meta(
            description="Share of the CPU when there is not enough for all, against 100 of others "
            "(CPUWeight=).",
            ge=1,
            le=10_000,
        ),
    ] = 100
    cpu_quota: Annotated[
        int,
        Meta(
            description="CPU time a tenant may use in percent of one core (CPUQuota=); 200 is two cores. 0 "
            "means no limit.",
            ge=0,
            le=102_400,
        ),
    ] = 0
    tasks_max: Annotated[
        int, Meta(description="Processes and threads a tenant may have (TasksMax=).", ge=1, le=4_000_000)
    ] = 512
    io_weight: Annotated[
        int,
        Meta(
            description="Share of the disk when there is not enough for all, against 100 of others "
            "(IOWeight=).",
            ge=1,
            le=10_000,
        ),
    ] = 100
    open_files: Annotated[
        int,
        Meta(
            description="Files and connections each process of a tenant may have open (LimitNOFILE=).",
            ge=16,
            le=1_048_576,
        ),
    ] = 4096
    storage_persist: Annotated[
        bool,
        Meta(
            description="Keep the tenant's data directory when it sleeps. If false, every start begins with "
            "an empty one."
        ),
    ] = True
    storage_quota_mb: Annotated[
        int,
        Meta(description="MiB a tenant's data directory may hold. 0 means no limit.", ge=0, le=1_073_741_824),
    ] = 0
    min_running: Annotated[
        int,
        Meta(
            description="How many tenants of this service, the most recently used, are kept running however "
            "idle.",
            ge=0,
            le=1_000_000,
        ),
    ] = 0
    max_running: Annotated[
        int,
        Meta(
            description="How many tenants of this service may run at a time; beyond it the longest idle is "
            "put to sleep. 0 means no limit.",
            ge=0,
            le=1_000_000,
        ),
    ] = 0
    auto_spawn: Annotated[
        bool,
        Meta(
            description="Make a tenant when a request names one that does not exist. Visitors can then make "
            "as many as they like."
        ),
    ] = False
    waiting_page: Annotated[
        bool,
        Meta(
            description="Show browsers a page that reloads itself while the tenant starts, rather than keep "
            "them waiting."
        ),
    ] = False
    error_pages: Annotated[
        str | None,
        _of_kind(
            "directory",
            "A directory with the service's own pages for answers that the proxy gives in the app's place: "
            "404.html, 429.html, 502.html, 503.html, 504.html and others, waiting.html for `waiting_page`. "
            "Browsers get them, programs get JSON as without them. Each is whole by itself, has 64 KiB at "
            "most, and every user of the host may read it; `{request_id}` in it becomes the request's id. "
            "They are read when the configuration is loaded.",
        ),
    ] = None
    sticky: Annotated[
        bool,
        Meta(
            description="Keep a visitor of NAME.DOMAIN on the tenant that answered first, by a signed cookie."
        ),
    ] = False
    max_requests: Annotated[
        int,
        Meta(
            description="Requests in flight to one tenant, for each proxy worker; more are answered 503. 0 "
            "means no limit.",
            ge=0,
            le=1_000_000,
        ),
    ] = 1000
    rate_limit: Annotated[
        int,
        Meta(
            description="Requests a second to one tenant, for each proxy worker; more are answered 429. 0 "
            "means no limit.",
            ge=0,
            le=1_000_000,
        ),
    ] = 0
    max_body_mb: Annotated[
        int,
        Meta(
            description="MiB a request's body may have; larger ones are answered 413. Bodies are streamed. "
            "0 means no limit.",
            ge=0,
            le=1_048_576,
        ),
    ] = 0
    max_header_kb: Annotated[
        int,
        Meta(
            description="KiB a request's or an answer's header may have; larger ones are answered 431 or "
            "502.",
            ge=4,
            le=1024,
        ),
    ] = 64
    env: Annotated[
        dict[str, str],
        _of_kind("environment", "A table of environment variables. Not for secrets: use `credentials`."),
    ] = field(default_factory=dict)
    credentials: Annotated[
        dict[str, Credential],
        _of_kind(
            "credentials",
            "A table of secrets; the app finds each as a file in $CREDENTIALS_DIRECTORY. The value is the "
            "absolute path of a file, or a table: { encrypted_path = PATH } or { encrypted_value = TEXT }, "
            "made by systemd-creds(1).",
        ),
    ] = field(default_factory=dict)


class Routing(Struct, frozen=True, kw_only=True):
    """`[routing]`: host names and paths beyond ID.SERVICE.DOMAIN.

    A target is a tenant (notes:alice) or a service (notes).
    """

    default: Annotated[
        str | None,
        _of_kind("target", "Where requests for an unknown host go. Without it they are answered 404."),
    ] = None
    hosts: Annotated[
        dict[str, str],
        _of_kind(
            "hosts", 'A table of whole host names and their targets: "www.example.com" = "notes:alice".'
        ),
    ] = field(default_factory=dict)
    paths: Annotated[
        dict[str, str],
        _of_kind(
            "paths",
            'A table of path prefixes on the base domain and their targets: "/blog" = "notes:alice". The '
            "longest wins.",
        ),
    ] = field(default_factory=dict)


class Config(Struct, frozen=True, kw_only=True):
    """The whole configuration, valid once it exists."""

    settings: Settings = Settings()
    services: dict[str, Service] = field(default_factory=dict)
    instances: tuple[TenantName, ...] = ()
    routing: Routing = Routing()


def kind_of(extra: dict[str, Any] | None) -> str:
    """The way a setting is read besides its type; "" for none."""
    return str((extra or {}).get("kind", ""))
