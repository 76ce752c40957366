"""The configuration in /etc/tenement: tenement.toml and tenement.d/*.toml. See tenement.toml(5)."""

from tenement.config.files import DIRECTORY, load, load_directory
from tenement.config.parser import parse
from tenement.config.placeholders import PLACEHOLDERS, fill
from tenement.config.rules import is_relative, warnings
from tenement.config.settings import Config, Credential, Routing, Service, Settings
from tenement.errors import InvalidConfig, Problem

__all__ = [
    "DIRECTORY",
    "PLACEHOLDERS",
    "Config",
    "Credential",
    "InvalidConfig",
    "Problem",
    "Routing",
    "Service",
    "Settings",
    "fill",
    "is_relative",
    "load",
    "load_directory",
    "parse",
    "warnings",
]
