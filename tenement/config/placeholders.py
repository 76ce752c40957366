"""Placeholders in settings: `{data_dir}/{id}/app.db`.

Only a name in braces is a placeholder; any other brace stands for itself, so JSON can be written as it is.
`{{name}}` gives the text `{name}`.
"""

import re
from collections.abc import Mapping
from typing import Final

PLACEHOLDERS: Final = {
    "name": "the service's name",
    "id": "the tenant's id",
    "data_dir": "the service's data directory; {data_dir}/{id} is the tenant's own",
    "release": "the tenant's release, see `ten rollout`; for directories of several versions",
    "port": 'the TCP port to listen on (empty unless listen = "port")',
    "socket": 'the unix socket to listen on (empty unless listen = "socket")',
}
"""Every placeholder, and what takes its place when the tenant starts."""

_PATTERN: Final = re.compile(r"\{\{([A-Za-z_]\w*)\}\}|\{([A-Za-z_]\w*)\}", re.ASCII)


def placeholders_in(text: str) -> list[str]:
    """The names of the placeholders in `text`, known or not, in order."""
    return [match[2] for match in _PATTERN.finditer(text) if match[2]]


def fill(text: str, values: Mapping[str, str]) -> str:
    """`text` with its placeholders replaced. Raises KeyError for a name that `values` lacks."""
    return _PATTERN.sub(lambda match: f"{{{match[1]}}}" if match[1] else values[match[2]], text)
