"""How a client gets into Kafka: the one place that makes aiokafka's arguments of the settings `kafka.*`.

Secrets come from files, and files change. What is read when, with aiokafka 0.14 (ops/security.md has it as a table):
its arguments are taken once, when a client is made, and a worker's main consumer lives as long as the worker. But for
every connection it asks the SSLContext for a session, the token provider for a token, and, with SCRAM, the password
for its bytes. So those three read their files again, if need be, and only PLAIN's password is as old as its client.
"""

from __future__ import annotations

from typing import Any

from stream_worker.errors import OutageError, UserError
from stream_worker.security.certificates import Renewing, authorities
from stream_worker.security.files import secret
from stream_worker.security.passwords import ScramPassword
from stream_worker.security.tokens import token_provider
from stream_worker.settings import Kafka

__all__ = ["authorities", "client", "renewed", "secret"]


def client(kafka: Kafka) -> dict[str, Any]:
    """What every aiokafka client is made with, to get in. Nothing for PLAINTEXT.

    Raises UserError, one line that names the setting, where a file is missing, can't be read, is empty or does not fit.
    """
    if kafka.security_protocol == "PLAINTEXT":
        return {}
    arguments: dict[str, Any] = {"security_protocol": kafka.security_protocol}
    if kafka.security_protocol.endswith("SSL"):
        arguments["ssl_context"] = Renewing(kafka)
    if kafka.sasl_mechanism is not None:
        arguments |= {"sasl_mechanism": kafka.sasl_mechanism, **_sasl(kafka)}
    return arguments


def renewed(kafka: Kafka) -> dict[str, Any]:
    """`client` for a worker that runs. Raises OutageError: a secret that is being changed is back in a moment."""
    try:
        return client(kafka)
    except UserError as error:
        raise OutageError(str(error)) from None


def _sasl(kafka: Kafka) -> dict[str, Any]:
    if kafka.sasl_mechanism == "OAUTHBEARER":
        return {"sasl_oauth_token_provider": token_provider(kafka)}
    arguments: dict[str, Any] = {"sasl_plain_username": kafka.username}
    if kafka.password is not None:
        arguments["sasl_plain_password"] = kafka.password.get_secret_value()
    elif kafka.password_file is not None:
        now = secret(kafka.password_file, "kafka.password_file")
        scram = kafka.sasl_mechanism != "PLAIN"
        arguments["sasl_plain_password"] = ScramPassword(kafka.password_file) if scram else now
    return arguments
