"""The command `ten`. See ten(1)."""

from tenement.cli.entry import main

__all__ = ["main"]
