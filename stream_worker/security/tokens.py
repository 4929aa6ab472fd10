"""OAUTHBEARER tokens: from a file that somebody renews, or from an identity provider."""

from __future__ import annotations

import asyncio
import json
import re
import threading
import time
from base64 import b64encode
from functools import lru_cache
from pathlib import Path
from urllib.parse import quote_plus, urlencode, urlsplit

import urllib3
from aiokafka.abc import AbstractTokenProvider
from aiokafka.errors import AuthenticationFailedError

from stream_worker.errors import UserError
from stream_worker.security.certificates import authorities
from stream_worker.security.files import at_connecting, secret
from stream_worker.settings import Kafka

LARGEST_BYTES = 64 * 1024
"""Of an endpoint's answer."""
ANSWER_S = 10.0
"""An endpoint's answer, at most."""
SHORTEST_S = 60.0
"""How long a token counts as good whose endpoint does not say."""


class TokenFile(AbstractTokenProvider):  # type: ignore[misc]  # aiokafka has no types
    """A token that somebody else renews (a sidecar, a projected volume): read for every connection."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def token(self) -> str:
        """The token as it is now. Raises AuthenticationFailedError where its file can't be read."""
        return at_connecting(self._path, "kafka.oauth_token_file").strip()


class ClientCredentials(AbstractTokenProvider):  # type: ignore[misc]  # aiokafka has no types
    """Tokens for a client's id and secret (RFC 6749, 4.4), kept for four fifths of their life. Any thread may ask."""

    def __init__(
        self, endpoint: str, client_id: str, secret_file: Path, scope: str | None = None, ca_file: Path | None = None
    ) -> None:
        self._endpoint, self._client_id, self._secret_file = endpoint, client_id, secret_file
        self._form = {"grant_type": "client_credentials"} | ({"scope": scope} if scope else {})
        self._ca_file = ca_file
        self._where = f"kafka.oauth_token_endpoint {urlsplit(endpoint).hostname}"
        self._lock = threading.Lock()
        self._token = ""
        self._good_until = 0.0

    async def token(self) -> str:
        """A token that is good. Raises AuthenticationFailedError where none can be had."""
        return await asyncio.to_thread(self._current)

    def _current(self) -> str:
        with self._lock:  # a worker's clients start together: one of them asks for all
            if time.monotonic() >= self._good_until:
                self._token, life_s = self._fetched()
                self._good_until = time.monotonic() + 0.8 * life_s
            return self._token

    def _fetched(self) -> tuple[str, float]:
        said = at_connecting(self._secret_file, "kafka.oauth_client_secret_file")
        basic = b64encode(f"{quote_plus(self._client_id)}:{quote_plus(said)}".encode()).decode()
        try:
            trusted = authorities(self._ca_file, "kafka.oauth_ca_file")
        except UserError as error:
            raise AuthenticationFailedError(str(error)) from None
        with urllib3.PoolManager(ssl_context=trusted, retries=False, timeout=ANSWER_S) as pool:
            try:
                answer = pool.request(
                    "POST",
                    self._endpoint,
                    body=urlencode(self._form),
                    headers={
                        "authorization": f"Basic {basic}",
                        "content-type": "application/x-www-form-urlencoded",
                        "accept": "application/json",
                    },
                    redirect=False,  # the secret goes nowhere else
                    preload_content=False,
                )
                body = answer.read(LARGEST_BYTES)
            except (urllib3.exceptions.HTTPError, OSError) as error:
                raise AuthenticationFailedError(f"{self._where} can't be reached: {type(error).__name__}") from None
        try:
            found = json.loads(body)
        except ValueError:
            found = None
        found = found if isinstance(found, dict) else {}
        token, life_s = found.get("access_token"), found.get("expires_in", SHORTEST_S)
        if answer.status != 200 or not isinstance(token, str) or not token:
            # RFC 6749, 5.2: one of a few words. Nothing else of the answer is repeated.
            word = str(found.get("error", ""))
            why = f": {word}" if re.fullmatch(r"[a-z_]{1,40}", word) else ""
            raise AuthenticationFailedError(f"{self._where} gives no token (HTTP {answer.status}{why})")
        return token, float(life_s) if isinstance(life_s, int | float) else SHORTEST_S


def token_provider(kafka: Kafka) -> AbstractTokenProvider:
    if kafka.oauth_token_file is not None:
        secret(kafka.oauth_token_file, "kafka.oauth_token_file")
        return TokenFile(kafka.oauth_token_file)
    assert kafka.oauth_token_endpoint is not None, "the settings see to that"
    assert kafka.oauth_client_id is not None
    assert kafka.oauth_client_secret_file is not None
    secret(kafka.oauth_client_secret_file, "kafka.oauth_client_secret_file")
    return _client_credentials(
        kafka.oauth_token_endpoint,
        kafka.oauth_client_id,
        kafka.oauth_client_secret_file,
        kafka.oauth_scope,
        kafka.oauth_ca_file,
    )


_client_credentials = lru_cache(ClientCredentials)
"""One for all clients of a process: a token is fetched once, and not a dozen times."""
