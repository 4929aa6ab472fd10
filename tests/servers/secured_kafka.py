"""A real Kafka that asks everybody who they are, and lets nobody do what no ACL says: a listener for each way in.

One broker has them all, because starting one is what takes long. Its users are the roles (`acl.Role`), under the same
name whatever the way: by password, by certificate or by token. `root` may do everything.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import time
from base64 import urlsafe_b64encode
from pathlib import Path
from typing import Any

from aiokafka.conn import create_conn
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.struct import Schema
from aiokafka.protocol.types import CompactArray, CompactBytes, CompactString, Int8, Int16, Int32, TaggedFields

from stream_worker import security, topics
from stream_worker.local_kafka import LocalKafka
from stream_worker.local_kafka.ports import HOST, free_port
from stream_worker.security import authorizing
from stream_worker.security.acl import Role
from stream_worker.settings import Kafka
from tests.servers.certificates import EXPIRED, Authority, Certificate

NAME = "localhost"
"""What the broker's certificate is for: not 127.0.0.1."""
ROOT = "root"
LISTENERS = ("PLAINTEXT", "SASL", "SASLTLS", "TLS", "MTLS", "EXPIRED", "OAUTH")
APP_GROUP = "shop"
"""The consumer group of the role `reader`."""


class SecuredKafka(LocalKafka):
    """The broker, with its authority and its users' secrets in `folder`."""

    def __init__(self, folder: Path) -> None:
        ports: list[int] = []
        while len(ports) < len(LISTENERS) + 1:
            if (port := free_port()) not in ports:
                ports.append(port)
        self._ports = dict(zip((*LISTENERS, "CONTROLLER"), ports, strict=True))
        self.folder = folder
        self.authority = Authority(folder / "authority")
        self.other_authority = Authority(folder / "other-authority", "another authority")
        broker = self.authority.sign("broker", f"DNS:{NAME}")
        old = self.authority.sign("broker-of-yesterday", f"DNS:{NAME}", validity=EXPIRED)
        self.passwords = {name: f"password-of-{name}-1" for name in (*Role, ROOT)}
        self._certificates: dict[str, Certificate] = {}
        super().__init__(
            folder / "kafka",
            self._ports["PLAINTEXT"],
            config=_config(self._ports, broker, old, self.authority.ca_file),
            format_arguments=[
                argument
                for name, password in self.passwords.items()
                for argument in ("--add-scram", f"SCRAM-SHA-512=[name={name},password={password}]")
            ],
        )

    def server(self, listener: str, host: str | None = None) -> str:
        """host:port of a listener, by the name that it has in its certificate or by another."""
        return f"{host or (NAME if 'TLS' in listener or listener == 'EXPIRED' else HOST)}:{self._ports[listener]}"

    def by_password(self, user: str, prefix: str = "", *, listener: str = "SASL", **over: Any) -> Kafka:
        """Settings of a user with SCRAM; the password is in a file."""
        file = self._written(f"{user}.password", self.passwords[user])
        tls = {"ca_file": self.authority.ca_file} if listener == "SASLTLS" else {}
        return _kafka(
            self.server(listener),
            prefix,
            security_protocol="SASL_SSL" if tls else "SASL_PLAINTEXT",
            sasl_mechanism="SCRAM-SHA-512",
            username=str(user),
            password_file=file,
            **tls,
            **over,
        )

    def by_certificate(self, user: str, prefix: str = "", **over: Any) -> Kafka:
        """Settings of a user with a certificate of its own, whose key has a password."""
        password = self._written("key.password", "sesame")
        if user not in self._certificates:
            self._certificates[user] = self.authority.sign(str(user), password="sesame")
        own = self._certificates[user]
        files = {"certificate_file": own.certificate, "key_file": own.key, "key_password_file": password}
        return _kafka(
            self.server("MTLS"),
            prefix,
            **{"security_protocol": "SSL", "ca_file": self.authority.ca_file, **files, **over},
        )

    def by_token(self, user: str, prefix: str = "", *, file: Path | None = None) -> Kafka:
        """Settings of a user with a token in a file; None: one of the user's own."""
        file = file or self._written(f"{user}.token", token(user))
        return _kafka(
            self.server("OAUTH"),
            prefix,
            security_protocol="SASL_PLAINTEXT",
            sasl_mechanism="OAUTHBEARER",
            oauth_token_file=file,
        )

    async def furnish(self, prefix: str) -> None:
        """Give every role its ACLs for this prefix, and create the topics as the role `admin`."""
        for role in (*(role for role in Role if role is not Role.ADMIN), Role.ADMIN):
            await authorizing.apply(self.by_password(ROOT, prefix), role, f"User:{role}", APP_GROUP)
        # The authorizer hears of ACLs by the metadata log, a moment later and in their order: the admin's come last.
        async with asyncio.timeout(60):
            while (await topics.counts(self.by_password(Role.ADMIN, prefix))).denied:  # noqa: ASYNC110  # asked
                await asyncio.sleep(0.1)
        await topics.create(self.by_password(Role.ADMIN, prefix))

    async def change_password(self, user: str, password: str) -> None:
        """As an operator would with kafka-configs.sh; the user's file stays as it was."""
        salt = os.urandom(16)
        salted = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, ITERATIONS)
        host, _, port = self.server("SASL").partition(":")
        connection = await create_conn(host, int(port), **security.client(self.by_password(ROOT)))
        try:
            answer = await connection.send(_AlterScram(user, salt, salted))
            assert [code for _, code, *_ in answer.results] == [0], answer
        finally:
            connection.close()
        self.passwords[user] = password

    def _written(self, name: str, text: str) -> Path:
        file = self.folder / name
        if not file.exists():  # one that a test has changed stays changed
            file.write_text(f"{text}\n")
        return file


def token(user: str, life_s: float = 3600) -> str:
    """A token as Kafka's own validator for tests takes it: without a signature (RFC 7515, "alg": "none")."""
    now = time.time()
    claims = {"sub": str(user), "iat": now - 3600, "exp": now + life_s}
    parts = ({"alg": "none"}, claims)
    return ".".join(urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts) + "."


def _kafka(servers: str, prefix: str, **security: Any) -> Kafka:
    return Kafka(bootstrap_servers=servers, prefix=prefix, partitions=2, **security)


def _config(ports: dict[str, int], broker: Certificate, old: Certificate, ca_file: Path) -> dict[str, str]:
    protocols = {
        "PLAINTEXT": "PLAINTEXT",  # for the start's question whether it answers; nobody there may do anything
        "SASL": "SASL_PLAINTEXT",
        "SASLTLS": "SASL_SSL",
        "TLS": "SSL",
        "MTLS": "SSL",
        "EXPIRED": "SSL",
        "OAUTH": "SASL_PLAINTEXT",
        "CONTROLLER": "SASL_PLAINTEXT",
    }
    plain = (
        'org.apache.kafka.common.security.plain.PlainLoginModule required username="node" password="of-the-node" '
        'user_node="of-the-node" user_plain="password-of-plain-1";'
    )
    scram = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
    config = {
        "listeners": ",".join(f"{name}://{HOST}:{port}" for name, port in ports.items()),
        "advertised.listeners": ",".join(
            f"{name}://{NAME if protocols[name].endswith('SSL') else HOST}:{port}"
            for name, port in ports.items()
            if name != "CONTROLLER"
        ),
        "listener.security.protocol.map": ",".join(f"{name}:{protocol}" for name, protocol in protocols.items()),
        "controller.quorum.voters": f"1@{HOST}:{ports['CONTROLLER']}",
        "inter.broker.listener.name": "SASL",
        "sasl.mechanism.inter.broker.protocol": "PLAIN",
        "sasl.mechanism.controller.protocol": "PLAIN",
        "listener.name.controller.sasl.enabled.mechanisms": "PLAIN",
        "listener.name.controller.plain.sasl.jaas.config": plain,
        "listener.name.sasl.sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-512",
        "listener.name.sasl.plain.sasl.jaas.config": plain,
        "listener.name.sasl.scram-sha-512.sasl.jaas.config": scram,
        "listener.name.sasltls.sasl.enabled.mechanisms": "SCRAM-SHA-512",
        "listener.name.sasltls.scram-sha-512.sasl.jaas.config": scram,
        "listener.name.oauth.sasl.enabled.mechanisms": "OAUTHBEARER",
        "listener.name.oauth.oauthbearer.sasl.jaas.config": (
            "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required "
            'unsecuredLoginStringClaim_sub="node";'
        ),
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": f"User:node;User:{ROOT}",
        "group.min.session.timeout.ms": "1000",
        "listener.name.mtls.ssl.client.auth": "required",
        "listener.name.mtls.ssl.principal.mapping.rules": "RULE:^CN=([^,]+)$/$1/,DEFAULT",
    }
    for name in ("sasltls", "tls", "mtls", "expired"):
        config |= {
            f"listener.name.{name}.ssl.keystore.type": "PEM",
            f"listener.name.{name}.ssl.keystore.location": str(old.both if name == "expired" else broker.both),
            f"listener.name.{name}.ssl.truststore.type": "PEM",
            f"listener.name.{name}.ssl.truststore.location": str(ca_file),
        }
    return config


ITERATIONS = 4096
_SCRAM_SHA_512 = 2


class _AlterScramResponseV0(Response):
    API_KEY = 51
    API_VERSION = 0
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "results",
            CompactArray(
                ("user", CompactString("utf-8")),
                ("error_code", Int16),
                ("error_message", CompactString("utf-8")),
                ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )


class _AlterScramRequestV0(RequestStruct):
    FLEXIBLE_VERSION = True
    API_KEY = 51
    API_VERSION = 0
    RESPONSE_TYPE = _AlterScramResponseV0
    SCHEMA = Schema(
        (
            "deletions",
            CompactArray(("name", CompactString("utf-8")), ("mechanism", Int8), ("tags", TaggedFields)),
        ),
        (
            "upsertions",
            CompactArray(
                ("name", CompactString("utf-8")),
                ("mechanism", Int8),
                ("iterations", Int32),
                ("salt", CompactBytes),
                ("salted_password", CompactBytes),
                ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )


class _AlterScram(Request[_AlterScramRequestV0]):
    """AlterUserScramCredentials, which aiokafka lacks."""

    API_KEY = 51

    def __init__(self, user: str, salt: bytes, salted: bytes) -> None:
        self._upsertion = (str(user), _SCRAM_SHA_512, ITERATIONS, salt, salted, {})

    def build(self, request_struct_class: type[_AlterScramRequestV0]) -> _AlterScramRequestV0:
        return request_struct_class([], [self._upsertion], {})
