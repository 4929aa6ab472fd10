"""How a client gets into Kafka: the one place that makes aiokafka's arguments of the settings `kafka.*`.

Secrets come from files, and files change. What is read when, with aiokafka 0.14 (ops/security.md has it as a table):
its arguments are taken once, when a client is made, and a worker's main consumer lives as long as the worker. But for
every connection it asks the SSLContext for a session, the token provider for a token, and, with SCRAM, the password
for its bytes. So those three read their files again, if need be, and only PLAIN's password is as old as its client.
"""

from __future__ import annotations

import asyncio
import json
import re
import ssl
import threading
import time
from base64 import b64encode
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus, urlencode, urlsplit

import urllib3
from aiokafka.abc import AbstractTokenProvider
from aiokafka.errors import AuthenticationFailedError

from stream_worker import telemetry
from stream_worker.errors import OutageError, UserError
from stream_worker.settings import Kafka

LARGEST_BYTES = 64 * 1024
"""Of a secret's file, and of a token endpoint's answer."""
TOKEN_S = 10.0
"""A token endpoint's answer, at most."""
SHORTEST_S = 60.0
"""How long a token counts as good whose endpoint does not say."""

log = telemetry.get(__name__)


def client(kafka: Kafka) -> dict[str, Any]:
    """What every aiokafka client is made with, to get in. Nothing for PLAINTEXT.

    Raises UserError, one line that names the setting, where a file is missing, can't be read, is empty or does not fit.
    """
    if kafka.security_protocol == "PLAINTEXT":
        return {}
    arguments: dict[str, Any] = {"security_protocol": kafka.security_protocol}
    if kafka.security_protocol.endswith("SSL"):
        arguments["ssl_context"] = context(kafka)
    if kafka.sasl_mechanism is not None:
        arguments |= {"sasl_mechanism": kafka.sasl_mechanism, **_sasl(kafka)}
    return arguments


def renewed(kafka: Kafka) -> dict[str, Any]:
    """`client` for a worker that runs. Raises OutageError: a secret that is being changed is back in a moment."""
    try:
        return client(kafka)
    except UserError as error:
        raise OutageError(str(error)) from None


def secret(path: Path, setting: str) -> str:
    """The text of a secret's file, without the newline that editors put behind it. Raises UserError.

    No message holds anything of what was read.
    """
    try:
        with path.expanduser().open("rb") as file:
            raw = file.read(LARGEST_BYTES + 1)
    except OSError as error:
        raise UserError(f"{setting}: {path} can't be read: {error.strerror or type(error).__name__}") from None
    if len(raw) > LARGEST_BYTES:
        raise UserError(f"{setting}: {path} is larger than any secret")
    try:
        text = raw.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise UserError(f"{setting}: {path} is no text") from None
    if not text.strip():
        raise UserError(f"{setting}: {path} is empty")
    return text


def _at_connecting(path: Path, setting: str) -> str:
    """The same while a connection is made: its error is one that aiokafka takes for a connection that failed."""
    try:
        return secret(path, setting)
    except UserError as error:
        raise AuthenticationFailedError(str(error)) from None


# ---------------------------------------------------------------------------- SASL


def _sasl(kafka: Kafka) -> dict[str, Any]:
    if kafka.sasl_mechanism == "OAUTHBEARER":
        return {"sasl_oauth_token_provider": _token_provider(kafka)}
    arguments: dict[str, Any] = {"sasl_plain_username": kafka.username}
    if kafka.password is not None:
        arguments["sasl_plain_password"] = kafka.password.get_secret_value()
    elif kafka.password_file is not None:
        now = secret(kafka.password_file, "kafka.password_file")
        scram = kafka.sasl_mechanism != "PLAIN"
        arguments["sasl_plain_password"] = ScramPassword(kafka.password_file) if scram else now
    return arguments


class ScramPassword(str):
    """A password that is read again for every connection, and stands nowhere in memory meanwhile.

    aiokafka's SCRAM asks the argument for its bytes at the beginning of each authentication, and uses it for nothing
    else. As text this is empty.
    """

    __slots__ = ("_path",)
    _path: Path

    def __new__(cls, path: Path) -> ScramPassword:
        """Of the file at `path`."""
        made = super().__new__(cls)
        made._path = path
        return made

    def encode(self, encoding: str = "utf-8", errors: str = "strict") -> bytes:
        """The password as it is now. Raises AuthenticationFailedError where its file can't be read."""
        return _at_connecting(self._path, "kafka.password_file").encode(encoding, errors)


class TokenFile(AbstractTokenProvider):  # type: ignore[misc]  # aiokafka has no types
    """A token that somebody else renews (a sidecar, a projected volume): read for every connection."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def token(self) -> str:
        """The token as it is now. Raises AuthenticationFailedError where its file can't be read."""
        return _at_connecting(self._path, "kafka.oauth_token_file").strip()


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
        said = _at_connecting(self._secret_file, "kafka.oauth_client_secret_file")
        basic = b64encode(f"{quote_plus(self._client_id)}:{quote_plus(said)}".encode()).decode()
        try:
            trusted = authorities(self._ca_file, "kafka.oauth_ca_file")
        except UserError as error:
            raise AuthenticationFailedError(str(error)) from None
        with urllib3.PoolManager(ssl_context=trusted, retries=False, timeout=TOKEN_S) as pool:
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


def _token_provider(kafka: Kafka) -> AbstractTokenProvider:
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


# ---------------------------------------------------------------------------- TLS


def context(kafka: Kafka) -> ssl.SSLContext:
    """TLS as the settings want it: the broker's certificate is always checked, and its name too. Raises UserError."""
    return _Renewing(kafka)


def authorities(ca_file: Path | None, setting: str) -> ssl.SSLContext:
    """A context that trusts these authorities; None: the machine's. Raises UserError."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    trust(made, ca_file, setting)
    return made


def trust(made: ssl.SSLContext, ca_file: Path | None, setting: str) -> None:
    """Add authorities to a context; None: the machine's. Raises UserError."""
    if ca_file is None:
        made.load_default_certs()
        return
    text = text_of(ca_file, setting)
    try:
        made.load_verify_locations(cadata=text)
    except (ssl.SSLError, ValueError):
        raise UserError(f"{setting}: {ca_file} holds no certificates in PEM form") from None


def text_of(path: Path, setting: str) -> str:
    """The text of a file of certificates, which may be large. Raises UserError."""
    try:
        text = path.expanduser().read_text("ascii", errors="replace")
    except OSError as error:
        raise UserError(f"{setting}: {path} can't be read: {error.strerror or type(error).__name__}") from None
    if not text.strip():
        raise UserError(f"{setting}: {path} is empty")
    return text


class _Renewing(ssl.SSLContext):
    """Looks at its files again for every connection. New ones that don't fit are said, and the old ones stay.

    An authority that is taken out of its file is believed until the client is made anew: OpenSSL can't forget one.
    """

    def __new__(cls, kafka: Kafka) -> _Renewing:
        """Raises UserError where files are missing or don't fit each other."""
        made: _Renewing = super().__new__(cls, ssl.PROTOCOL_TLS_CLIENT)
        made.minimum_version = ssl.TLSVersion.TLSv1_2
        return made

    def __init__(self, kafka: Kafka) -> None:
        self._kafka = kafka
        self._state = self._now()
        _load(self, kafka)

    def wrap_bio(self, *args: Any, **kwargs: Any) -> ssl.SSLObject:
        """A new connection: asyncio makes each of its sessions here."""
        if (state := self._now()) != self._state:
            try:
                # Tried apart first: of files that don't fit each other, one half must not get into this context.
                _load(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), self._kafka)
                _load(self, self._kafka)
                self._state = state
                log.info("certificates read again")
            except UserError as error:
                log.warning("new certificates can't be used, the old ones stay", error=str(error))
        return super().wrap_bio(*args, **kwargs)

    def _now(self) -> tuple[tuple[int, int, int] | None, ...]:
        kafka = self._kafka
        return tuple(
            _identity(path)
            for path in (kafka.ca_file, kafka.certificate_file, kafka.key_file, kafka.key_password_file)
            if path is not None
        )


def _identity(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.expanduser().stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def _load(made: ssl.SSLContext, kafka: Kafka) -> None:
    trust(made, kafka.ca_file, "kafka.ca_file")
    if kafka.certificate_file is None:
        return
    certificate = text_of(kafka.certificate_file, "kafka.certificate_file")
    key = text_of(kafka.key_file, "kafka.key_file") if kafka.key_file else certificate
    password = secret(kafka.key_password_file, "kafka.key_password_file") if kafka.key_password_file else ""
    try:
        made.load_cert_chain(
            kafka.certificate_file.expanduser(),
            kafka.key_file.expanduser() if kafka.key_file else None,
            password=lambda: password,  # also where there is none: OpenSSL would ask for it at the terminal
        )
    except (ssl.SSLError, OSError, ValueError) as error:
        raise UserError(_unfit(getattr(error, "reason", None), certificate, key, kafka)) from None


def _unfit(reason: str | None, certificate: str, key: str, kafka: Kafka) -> str:
    """Which of the files does not fit. OpenSSL says of most faults no more than that it is one."""
    where = (
        f"kafka.key_file: {kafka.key_file}" if kafka.key_file else f"kafka.certificate_file: {kafka.certificate_file}"
    )
    if "BEGIN CERTIFICATE" not in certificate:
        return f"kafka.certificate_file: {kafka.certificate_file} holds no certificate in PEM form"
    if "PRIVATE KEY" not in key:
        return f"{where} holds no private key in PEM form"
    if reason == "KEY_VALUES_MISMATCH":
        return f"{where} is not the key of {kafka.certificate_file}"
    if "ENCRYPTED" in key:
        return f"{where} is encrypted, and kafka.key_password_file " + (
            "does not open it" if kafka.key_password_file else "is not named"
        )
    return f"{where} can't be used: {reason or 'damaged'}"
