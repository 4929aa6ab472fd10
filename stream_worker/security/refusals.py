"""Why a broker does not let us in, in one line that says what to do. aiokafka only logs it.

Its client says the same of every failure: that it could not bootstrap. So where a command or a worker can't start, each
server is asked once more here, and the error itself is read.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator
from typing import Any

from aiokafka.conn import AIOKafkaConnection, OAuthAuthenticator, collect_hosts
from aiokafka.errors import (
    AuthenticationFailedError,
    IllegalSaslStateError,
    KafkaConnectionError,
    KafkaError,
    SaslAuthenticationFailed,
    UnsupportedSaslMechanismError,
)
from aiokafka.protocol.metadata import MetadataRequest

from stream_worker.bootstrap import DEFAULT
from stream_worker.closing import end
from stream_worker.errors import UserError
from stream_worker.security import client
from stream_worker.settings import Kafka

ASK_S = 5.0

_EXPIRED, _NOT_YET, _NAMES = 10, 9, (62, 64)
"""OpenSSL's X509_V_ERR_*: CERT_HAS_EXPIRED, CERT_NOT_YET_VALID, HOSTNAME_MISMATCH and IP_ADDRESS_MISMATCH."""


async def why(kafka: Kafka) -> str | None:
    """Why no server lets us in; None where nothing more is known than that none answers. Raises nothing."""
    try:
        arguments = client(kafka)
        hosts = collect_hosts(kafka.bootstrap_servers or DEFAULT, randomize=False)
    except UserError as error:
        return str(error)
    except ValueError:
        return None
    asked = [asyncio.create_task(_ask(kafka, host, port, arguments)) for host, port, _ in hosts]
    try:
        async with asyncio.timeout(min(ASK_S, kafka.request_timeout_ms / 1000)):
            for answer in asyncio.as_completed(asked):
                if (reason := await answer) is not None:
                    return reason
    except TimeoutError:
        pass
    finally:
        await asyncio.gather(*(end(task) for task in asked))
    return None


async def _ask(kafka: Kafka, host: str, port: int, arguments: dict[str, Any]) -> str | None:
    connection = _Probe(host, port, request_timeout_ms=kafka.request_timeout_ms, **arguments)
    try:
        await connection.connect()
        await connection.send(MetadataRequest([]))  # a broker that does not like us may say so only now
    except (KafkaError, OSError, TimeoutError) as error:
        return said(error, kafka, f"{host}:{port}")
    finally:
        connection.close()
    return None


def said(error: BaseException, kafka: Kafka, server: str) -> str | None:
    """What an error of a connection means; None where it says no more than that nobody is there."""
    chain = list(_causes(error))
    for one in chain:
        if isinstance(one, ssl.SSLError):
            return _tls(one, kafka, server)
        if isinstance(one, UnsupportedSaslMechanismError):
            return f"{server} does not take {kafka.sasl_mechanism}: another kafka.sasl_mechanism, or another listener"
        if isinstance(one, SaslAuthenticationFailed):
            return _refused(kafka, server)
        if isinstance(one, AuthenticationFailedError):
            return one.args[0] if one.args else None
        if isinstance(one, IllegalSaslStateError):
            return f"{server} wants no SASL: kafka.security_protocol"
    if any(isinstance(one, ConnectionRefusedError) for one in chain):
        return None
    if any(isinstance(one, KafkaConnectionError | ConnectionResetError | EOFError) for one in chain):
        return (
            f"{server} hangs up on {kafka.security_protocol}: does its listener speak that (kafka.security_protocol)?"
        )
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _refused(kafka: Kafka, server: str) -> str:
    if kafka.sasl_mechanism == "OAUTHBEARER":
        of = "kafka.oauth_token_file" if kafka.oauth_token_file else "kafka.oauth_token_endpoint"
        return f"{server} refuses our token: expired, or not meant for it ({of})"
    return (
        f"{server} refuses user {kafka.username} ({kafka.sasl_mechanism}): wrong name or password (kafka.username, "
        "kafka.password_file)"
    )


def _tls(error: ssl.SSLError, kafka: Kafka, server: str) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        if error.verify_code == _EXPIRED:
            return f"the certificate of {server} has expired: the broker needs a new one"
        if error.verify_code == _NOT_YET:
            return f"the certificate of {server} is not valid yet: is this machine's clock right?"
        if error.verify_code in _NAMES:
            return f"the certificate of {server} is for another name: name the broker as its certificate does"
        trusted = (
            f"kafka.ca_file {kafka.ca_file}"
            if kafka.ca_file
            else "the machine's authorities (kafka.ca_file names others)"
        )
        return f"the certificate of {server} is not signed by {trusted}: {error.verify_message}"
    reason = error.reason or ""
    if "ALERT" in reason:
        word = reason.partition("ALERT_")[2].replace("_", " ").lower() or "alert"
        what = "our certificate" if kafka.certificate_file else "us without a certificate"
        return f"{server} refuses {what} ({word}): kafka.certificate_file"
    if reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST"):
        return f"{server} does not speak TLS: kafka.security_protocol"
    return f"no TLS with {server}: {reason or type(error).__name__}"


class _Probe(AIOKafkaConnection):  # type: ignore[misc]  # aiokafka has no types
    """A connection that hears a refused token: aiokafka's takes the challenge for a yes, and is then hung up on."""

    def authenticator_oauth(self) -> OAuthAuthenticator:
        """Sends the token, and reads what comes back."""
        return _OAuth(sasl_oauth_token_provider=self._sasl_oauth_token_provider)


class _OAuth(OAuthAuthenticator):  # type: ignore[misc]  # aiokafka has no types
    async def step(self, payload: bytes | None) -> Any:
        """RFC 7628, 3.2.2: an answer that is not empty says that the token was refused."""
        if payload:
            raise SaslAuthenticationFailed("the token was refused")
        return await super().step(payload)
