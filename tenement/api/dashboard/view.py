"""Templates, and how times, sizes and states are written in them."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from aiohttp import web
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from tenement import __version__
from tenement.api import session
from tenement.cli.text import span

_INSTALLED: Final = Path("/usr/share/tenement/templates/dashboard")

GROUPS: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    "awake": (
        "Awake",
        ("running", "starting", "queued", "thawing", "freezing", "draining", "stopping"),
    ),
    "frozen": ("Frozen", ("frozen",)),
    "asleep": ("Asleep", ("asleep", "arming", "armed")),
    "sick": ("Sick", ("failed", "backoff")),
    "disabled": ("Disabled", ("disabled",)),
}
"""States as people group them: what each group is called, and which states it has."""

_DEEDS: Final = {
    "AbortRollout": "ended the rollout of",
    "AddDomain": "gave a domain to",
    "CreateToken": "made a token:",
    "Deploy": "deployed",
    "Disable": "disabled",
    "Enable": "enabled",
    "OpenSession": "logged in",
    "Reload": "had the configuration read again",
    "Remove": "removed",
    "RemoveDomain": "removed the domain",
    "ResumeRollout": "resumed the rollout of",
    "RollBack": "began to roll back",
    "RollOut": "began the rollout of",
    "Route": "moved the requests of",
    "Unpin": "unpinned",
    "Restart": "restarted",
    "RevokeToken": "revoked the token",
    "SetWeight": "set the weight of",
    "Spawn": "made",
    "Stop": "stopped",
}
_GROUP_OF: Final = {state: group for group, (_, states) in GROUPS.items() for state in states}


SICK: Final = ("degraded", "unhealthy")
"""Health of tenants that run and are not well."""


def group_of(state: str) -> str:
    """The group of a state; "gone" for a tenant that is no more."""
    return _GROUP_OF.get(state, "gone")


def moment(then: float | None) -> str:
    """A time as people read it, in UTC."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(then)) if then is not None else "never"


def iso(then: float) -> str:
    """A time for machines."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(then))


def ago(then: float | None) -> str:
    """How long ago a time was."""
    return "never" if then is None else f"{span(max(0.0, time.time() - then))} ago"


def number(count: int) -> str:
    """A number of things, in groups of three digits."""
    return f"{count:,}"


def size(count: float | None) -> str:
    """A number of bytes in the unit that it is short in."""
    if count is None:
        return "not counted"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def deed(text: str) -> str:
    """What somebody did, from the name of a method and its arguments, in words."""
    member, _, rest = text.partition(" ")
    return f"{_DEEDS.get(member, member)} {rest}".strip()


def seconds(count: float | None) -> str:
    """A span of seconds as people read it; 0 means never."""
    if not count:
        return "never"
    return span(count) if count >= 1 else f"{count * 1000:g} ms"


def _directory() -> Path:
    """Beside the source if this runs from there, or where the package puts them."""
    source = Path(__file__).parents[3] / "templates" / "dashboard"
    return source if source.is_dir() else _INSTALLED


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_directory()),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
        auto_reload=False,
    )
    environment.filters |= {
        "ago": ago,
        "deed": deed,
        "group_of": group_of,
        "iso": iso,
        "moment": moment,
        "number": number,
        "seconds": seconds,
        "size": size,
    }
    environment.globals |= {"groups": GROUPS, "version": __version__}
    return environment


_TEMPLATES: Final = _environment()


def render(
    request: web.Request, template: str, token: str = "", status: int = 200, **values: Any
) -> web.Response:
    """A page. `token` is that of the session, "" outside of one."""
    text = _TEMPLATES.get_template(template).render(
        path=request.path, csrf=session.csrf_value(token) if token else "", signed_in=bool(token), **values
    )
    return web.Response(text=text, status=status, content_type="text/html", charset="utf-8")
