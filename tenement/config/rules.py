"""Rules between settings: combinations that cannot work, and those that work but deserve a warning."""

from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from tenement.config.places import Path
from tenement.config.settings import Config, Service


class Complaint(NamedTuple):
    """A broken rule: the settings it is about, of which the first is to blame, and what is wrong."""

    paths: tuple[Path, ...]
    message: str
    hint: str | None = None


class _Rule(NamedTuple):
    keys: tuple[str, ...]
    broken: Callable[[Service], bool]
    message: str
    hint: str | None = None


_SERVICE_RULES: Final = (
    _Rule(
        ("command",),
        lambda s: not s.command,
        "is missing",
        'For example: command = "./notes.py"',
    ),
    _Rule(
        ("command", "workdir"),
        lambda s: bool(s.command) and is_relative(s.command[0]) and s.workdir is None,
        "is relative, but there is no workdir it could be relative to",
        "Set workdir, or write an absolute path.",
    ),
    _Rule(
        ("pre_release", "workdir"),
        lambda s: bool(s.pre_release) and is_relative(s.pre_release[0]) and s.workdir is None,
        "is relative, but there is no workdir it could be relative to",
        "Set workdir, or write an absolute path.",
    ),
    _Rule(
        ("pre_release", "storage_persist"),
        lambda s: bool(s.pre_release) and not s.storage_persist,
        "needs storage_persist = true: without it there is no data to prepare",
    ),
    _Rule(
        ("overlap", "pre_release"),
        lambda s: s.overlap and bool(s.pre_release),
        "cannot be together with pre_release, which must not change the data of an app that runs",
    ),
    _Rule(
        ("overlap", "storage_persist"),
        lambda s: s.overlap and not s.storage_persist,
        "needs storage_persist = true: without it every start begins with an empty directory",
    ),
    _Rule(
        ("freeze_timeout", "idle_timeout"),
        lambda s: 0 < s.idle_timeout_s <= s.freeze_timeout_s,
        "must be shorter than idle_timeout: the tenant would be stopped before it is frozen",
    ),
    _Rule(
        ("listen", "network"),
        lambda s: s.listen == "port" and s.network == "none",
        'must be "socket" or "fd" when network = "none": no port of the tenant could be reached',
    ),
    _Rule(
        ("network", "isolation"),
        lambda s: s.network == "none" and s.isolation == "process",
        '"none" needs isolation = "namespace"',
    ),
    _Rule(
        ("memory_high_mb", "memory_limit_mb"),
        lambda s: 0 < s.memory_limit_mb < s.memory_high_mb,
        "must not be above memory_limit_mb: the tenant would be killed before it is slowed down",
    ),
    _Rule(
        ("backoff_base_ms", "backoff_max_ms"),
        lambda s: s.backoff_base_ms > s.backoff_max_ms,
        "must not be above backoff_max_ms",
    ),
    _Rule(
        ("min_running", "max_running"),
        lambda s: 0 < s.max_running < s.min_running,
        "must not be above max_running",
    ),
    _Rule(
        ("storage_quota_mb", "storage_persist"),
        lambda s: s.storage_quota_mb > 0 and not s.storage_persist,
        "needs storage_persist = true: without it every start begins with an empty directory",
    ),
)


def is_relative(program: str) -> bool:
    """Whether a program is relative to `workdir`: it has a slash, but is not absolute."""
    return "/" in program and not program.startswith(("/", "{data_dir}/"))


def broken_rules(config: Config) -> Iterator[Complaint]:
    """Every rule that the configuration breaks."""
    for name, service in config.services.items():
        for rule in _SERVICE_RULES:
            if rule.broken(service):
                yield Complaint(tuple(("service", name, key) for key in rule.keys), rule.message, rule.hint)
    yield from _broken_limits(config)
    yield from _broken_routes(config)


def _broken_limits(config: Config) -> Iterator[Complaint]:
    limit = config.settings.max_running
    kept = sum(service.min_running for service in config.services.values())
    if 0 < limit < kept:
        paths = (("settings", "max_running"), *(("service", name, "min_running") for name in config.services))
        yield Complaint(paths, f"must be at least {kept}, the sum of min_running of all services")


def _broken_routes(config: Config) -> Iterator[Complaint]:
    routing = config.routing
    targets: list[tuple[Path, str]] = []
    if routing.default:
        targets.append((("routing", "default"), routing.default))
    targets += [(("routing", "hosts", host), target) for host, target in routing.hosts.items()]
    targets += [(("routing", "paths", path), target) for path, target in routing.paths.items()]
    for path, target in targets:
        service = target.partition(":")[0]
        if service not in config.services:
            yield Complaint((path, ("service",)), f'leads to "{target}", but there is no service {service}')
    for host in routing.hosts:
        if host in config.settings.domains:
            yield Complaint(
                (("routing", "hosts", host), ("settings", "domain")),
                "is the base domain, which is tenement's own",
                "Use [routing] paths for paths on it.",
            )


def warnings(config: Config) -> list[str]:
    """What works but should be known: one line each."""
    lines = []
    for name, service in config.services.items():
        at = f"service.{name}"
        if service.isolation == "process":
            lines.append(f'{at}.isolation: "process" does not keep tenants apart; use it for debugging only')
        if service.auto_spawn and not service.max_running:
            lines.append(f"{at}.auto_spawn: visitors can start any number of tenants; set max_running")
    return lines
