"""TLS: authorities, our own certificate, and looking again for every connection whether they have changed."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

from stream_worker import telemetry
from stream_worker.errors import UserError
from stream_worker.security.files import secret, text_of
from stream_worker.settings import Kafka

log = telemetry.get(__name__)


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


class Renewing(ssl.SSLContext):
    """TLS as the settings want it: the broker's certificate is always checked, and its name too.

    It looks at its files again for every connection. New ones that don't fit are said, and the old ones stay.

    An authority that is taken out of its file is believed until the client is made anew: OpenSSL can't forget one.
    """

    def __new__(cls, kafka: Kafka) -> Renewing:
        """Raises UserError where files are missing or don't fit each other."""
        made: Renewing = super().__new__(cls, ssl.PROTOCOL_TLS_CLIENT)
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
