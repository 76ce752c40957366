"""The configuration as the manager holds it: a bad file never replaces a good one, over restarts too."""

import logging
from contextlib import suppress
from pathlib import Path

import msgspec

from tenement.config import DIRECTORY, Config, InvalidConfig, load_directory, warnings

log = logging.getLogger(__name__)


class Configuration:
    """The configuration in force, and the copy of it kept at `kept` for the next start of the manager."""

    def __init__(self, kept: Path, directory: Path = DIRECTORY) -> None:
        self._kept = kept
        self._directory = directory
        self.config = self._first()

    def reload(self) -> tuple[Config, list[str]]:
        """Read the files again; gives what they say and warnings. Raises InvalidConfig, changing nothing."""
        config = load_directory(self._directory)
        self.config = config
        self._keep(config)
        return config, [str(problem) for problem in warnings(config)]

    def _first(self) -> Config:
        try:
            config = load_directory(self._directory)
        except InvalidConfig as error:
            config = self._restore(error)
            for problem in error.problems:
                log.error("%s", problem)
            log.error("the configuration has faults; going on with the last good one")
            return config
        self._keep(config)
        return config

    def _keep(self, config: Config) -> None:
        replacement = self._kept.with_suffix(".new")
        try:
            replacement.write_bytes(msgspec.json.encode(config))
            replacement.chmod(0o600)
            replacement.replace(self._kept)
        except OSError as error:
            # A full disk must not keep the manager from starting, nor a change from taking effect.
            log.warning("the configuration is in force, but no copy of it could be kept: %s", error)
            with suppress(OSError):
                replacement.unlink()

    def _restore(self, error: InvalidConfig) -> Config:
        try:
            return msgspec.json.decode(self._kept.read_bytes(), type=Config)
        except (OSError, msgspec.MsgspecError):
            raise error from None
