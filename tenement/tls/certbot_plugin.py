"""The certbot authenticator `tenement`: answers http-01 through the proxy that runs, on port 80.

certbot finds it by its entry point and runs it as root, both at the first issue and when certbot.timer
renews. Nothing is stopped and no directory served: the answers are handed to the manager, which tells them to
all workers.
"""

import asyncio
import http.client
from collections.abc import Callable, Iterable
from typing import Any, Final

from acme import challenges
from certbot import achallenges, errors, interfaces
from certbot.plugins import common

from tenement.client import Client
from tenement.errors import TenementError

_CHECKS: Final = 12
"""How often in a row an answer must be right: each check may meet another worker."""

_CHECK_TIMEOUT_S: Final = 10.0
_PAUSE_S: Final = 0.05


class Authenticator(common.Plugin, interfaces.Authenticator):
    """See certbot.interfaces.Authenticator."""

    description = "Answers http-01 challenges through tenement's proxy, without stopping anything"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._tokens: set[str] = set()

    @classmethod
    def add_parser_arguments(cls, add: Callable[..., None]) -> None:
        """There is nothing to set."""

    def prepare(self) -> None:
        """Nothing has to be prepared."""

    def more_info(self) -> str:
        """What `certbot plugins` says of it."""
        return "Answers http-01 challenges through tenement's proxy on port 80."

    def get_chall_pref(self, domain: str) -> Iterable[type[challenges.Challenge]]:
        """http-01 and nothing else."""
        return [challenges.HTTP01]

    def perform(self, achalls: list[achallenges.AnnotatedChallenge]) -> list[challenges.ChallengeResponse]:
        """Have all challenges answered; returns when they are."""
        responses = []
        answers = {}
        for each in achalls:
            response, validation = each.response_and_validation()
            token = each.chall.encode("token")
            answers[token] = validation
            responses.append(response)
        self._tokens.update(answers)
        try:
            asyncio.run(_tell(answers))
            for token, validation in answers.items():
                asyncio.run(_answered(token, validation))
        except TenementError as error:
            raise errors.PluginError(str(error)) from error
        return responses

    def cleanup(self, achalls: list[achallenges.AnnotatedChallenge]) -> None:
        """Have the challenges answered no more."""
        tokens = {each.chall.encode("token") for each in achalls} & self._tokens
        self._tokens -= tokens
        try:
            asyncio.run(_tell(dict.fromkeys(tokens, "")))
        except TenementError as error:
            raise errors.PluginError(str(error)) from error


async def _tell(answers: dict[str, str]) -> None:
    async with Client() as client:
        for token, validation in answers.items():
            await client.set_challenge(token, validation)


async def _answered(token: str, validation: str) -> None:
    """Wait until the workers answer: the authority must not be faster than they are. Raises PluginError."""
    right = 0
    answer = ""
    try:
        async with asyncio.timeout(_CHECK_TIMEOUT_S):
            while right < _CHECKS:
                answer = await asyncio.to_thread(_ask, token)
                right = right + 1 if answer == validation else 0
                if not right:
                    await asyncio.sleep(_PAUSE_S)
    except TimeoutError:
        raise errors.PluginError(
            f"port 80 of this server does not answer challenges ({answer or 'no answer'}). "
            "See 'systemctl status tenement-http.socket tenement-proxy.target'."
        ) from None


def _ask(token: str) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", 80, timeout=2)
    try:
        connection.request("GET", f"/.well-known/acme-challenge/{token}", headers={"Host": "localhost"})
        response = connection.getresponse()
        text = response.read(1024).decode("ascii", "replace")
        return text if response.status == 200 else f"status {response.status}"
    except (OSError, http.client.HTTPException) as error:
        return str(error)
    finally:
        connection.close()
