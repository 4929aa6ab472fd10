"""Getting into Kafka: settings that contradict each other, files that don't fit, and what is never said."""

from __future__ import annotations

import logging
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from aiokafka.errors import AuthenticationFailedError
from pydantic import SecretStr

from stream_worker import security
from stream_worker.errors import OutageError, UserError
from stream_worker.local_default import connected, with_broker
from stream_worker.settings import Kafka, Local, Settings, Store, environment, load, shown
from stream_worker.store import open_store
from tests.servers.certificates import Authority, Certificate, available

CANARY = "canary-5f1e"


@pytest.mark.parametrize(
    ("kafka", "says"),
    [
        ({"sasl_mechanism": "PLAIN"}, "sasl_mechanism has no meaning with security_protocol PLAINTEXT"),
        ({"password_file": "p"}, "password_file has no meaning"),
        ({"security_protocol": "SSL", "username": "u"}, "username has no meaning with security_protocol SSL"),
        ({"security_protocol": "SASL_SSL"}, "SASL_SSL needs sasl_mechanism"),
        ({"security_protocol": "SASL_SSL", "sasl_mechanism": "PLAIN"}, "PLAIN needs username"),
        ({"security_protocol": "SASL_SSL", "sasl_mechanism": "SCRAM-SHA-512", "username": "u"}, "needs password_file"),
        (
            {
                "security_protocol": "SASL_SSL",
                "sasl_mechanism": "PLAIN",
                "username": "u",
                "password": CANARY,
                "password_file": "p",
            },
            "one of them",
        ),
        (
            {"security_protocol": "SASL_SSL", "sasl_mechanism": "PLAIN", "username": "u", "oauth_token_file": "t"},
            "oauth_token_file has no meaning with PLAIN",
        ),
        ({"security_protocol": "SASL_SSL", "sasl_mechanism": "OAUTHBEARER"}, "needs oauth_token_file, or all of"),
        (
            {"security_protocol": "SASL_SSL", "sasl_mechanism": "OAUTHBEARER", "oauth_client_id": "c"},
            "needs oauth_token_file, or all of",
        ),
        (
            {
                "security_protocol": "SASL_SSL",
                "sasl_mechanism": "OAUTHBEARER",
                "oauth_token_file": "t",
                "oauth_scope": "s",
            },
            "not both",
        ),
        (
            {
                "security_protocol": "SASL_SSL",
                "sasl_mechanism": "OAUTHBEARER",
                "username": "u",
                "oauth_token_file": "t",
            },
            "username has no meaning with OAUTHBEARER",
        ),
        ({"ca_file": "ca.pem"}, "ca_file has no meaning with security_protocol PLAINTEXT"),
        ({"security_protocol": "SSL", "key_file": "k"}, "key_file needs certificate_file"),
        ({"security_protocol": "SSL", "key_password_file": "k"}, "key_password_file needs certificate_file"),
        ({"security_protocol": "TLS"}, "kafka.security_protocol"),
        ({"oauth_token_endpoint": "http://idp.example/token"}, "https only"),
        ({"oauth_token_endpoint": f"https://u:{CANARY}@idp.example/token"}, "without credentials"),
        ({"bootstrap_servers": f"user:{CANARY}@kafka:9092"}, "no credentials"),
        ({"bootstrap_servers": f"SASL_SSL://user:{CANARY}@kafka:9092"}, "no credentials"),
    ],
)
def test_a_contradiction_is_one_line_without_what_was_written(kafka: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError) as error:
        load(kafka=kafka)
    assert says in str(error.value)
    assert "\n" not in str(error.value)
    assert CANARY not in str(error.value)


@pytest.mark.parametrize(
    ("store", "says"),
    [
        ({"url": f"s3://key:{CANARY}@bucket"}, "no credentials"),
        ({"endpoint": f"key:{CANARY}@host:9000"}, "no credentials"),
        ({"url": "s3://b", "secret_key": CANARY, "secret_key_file": "f"}, "not both"),
        ({"url": "s3://b", "ca_file": "ca.pem", "secure": False}, "without https"),
    ],
)
def test_the_store_likewise(store: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError) as error:
        load(store=store)
    assert says in str(error.value)
    assert CANARY not in str(error.value)


def test_the_command_lines_broker_likewise() -> None:
    with pytest.raises(UserError) as error:
        with_broker(Settings(), f"user:{CANARY}@kafka:9092")
    assert "no credentials" in str(error.value)
    assert CANARY not in str(error.value)


def test_a_private_broker_is_not_meant_where_there_is_a_user(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no broker is named"):
        connected(Settings(kafka=Kafka(security_protocol="SSL"), local=Local(data_dir=tmp_path)))


def scram(password_file: Path) -> Kafka:
    return Kafka(
        security_protocol="SASL_PLAINTEXT", sasl_mechanism="SCRAM-SHA-512", username="u", password_file=password_file
    )


def tokens(token_file: Path) -> Kafka:
    return Kafka(security_protocol="SASL_PLAINTEXT", sasl_mechanism="OAUTHBEARER", oauth_token_file=token_file)


@pytest.mark.parametrize("of", [scram, tokens])
@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "can't be read: No such file or directory"),
        (b"", "is empty"),
        (b"\n", "is empty"),
        (b"\xff\xfe" + CANARY.encode(), "is no text"),
        (CANARY.encode() * 10_000, "larger than any secret"),
        ("folder", "can't be read: Is a directory"),
    ],
)
def test_a_secrets_file_that_is_none_is_one_line(
    tmp_path: Path, of: Callable[[Path], Kafka], content: bytes | str | None, says: str
) -> None:
    file = tmp_path / "secret"
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content is not None:
        file.mkdir()
    with pytest.raises(UserError) as error:
        security.client(of(file))
    assert says in str(error.value)
    assert str(file) in str(error.value)
    assert "_file: " in str(error.value)
    assert CANARY not in str(error.value)
    with pytest.raises(OutageError, match="_file: "):  # it is being changed, and a worker that runs waits
        security.renewed(of(file))


def test_a_scram_password_is_read_for_every_authentication_and_kept_nowhere(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text(f"{CANARY}\n")
    password = security.client(scram(file))["sasl_plain_password"]
    assert password.encode("utf-8") == CANARY.encode()
    file.write_text("another")
    assert password.encode("utf-8") == b"another"
    assert CANARY not in repr(password) + str(password)
    file.unlink()
    with pytest.raises(AuthenticationFailedError, match="can't be read"):  # one that aiokafka tries again after
        password.encode("utf-8")


async def test_a_token_is_read_for_every_connection(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("one\n")
    provider = security.client(tokens(file))["sasl_oauth_token_provider"]
    assert await provider.token() == "one"
    file.write_text("two")
    assert await provider.token() == "two"


class _Endpoint(BaseHTTPRequestHandler):
    """Gives a numbered token to the client with the secret that stands here, for as long as it says."""

    secret = "c2VjcmV0LTE="  # base64 of secret-1
    life_s = 3600
    given = 0

    def do_POST(self) -> None:
        form = self.rfile.read(int(self.headers["content-length"])).decode()
        if self.headers["authorization"] != f"Basic {self.secret}" or "grant_type=client_credentials" not in form:
            self._answer(401, b'{"error": "invalid_client", "error_description": "' + CANARY.encode() + b'"}')
            return
        type(self).given += 1
        self._answer(200, b'{"access_token": "token-%d", "expires_in": %d}' % (self.given, self.life_s))

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


async def test_client_credentials_are_fetched_once_and_again_when_they_have_aged(tmp_path: Path) -> None:
    from base64 import b64encode

    class Endpoint(_Endpoint):
        secret = b64encode(b"worker:secret-1").decode()

    file = tmp_path / "client-secret"
    file.write_text("secret-1\n")
    with ThreadingHTTPServer(("127.0.0.1", 0), Endpoint) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        kafka = Kafka(
            security_protocol="SASL_PLAINTEXT",
            sasl_mechanism="OAUTHBEARER",
            oauth_token_endpoint=f"http://127.0.0.1:{server.server_port}/token",
            oauth_client_id="worker",
            oauth_client_secret_file=file,
            oauth_scope="kafka",
        )
        provider = security.client(kafka)["sasl_oauth_token_provider"]
        assert [await provider.token(), await provider.token()] == ["token-1", "token-1"]
        assert security.client(kafka)["sasl_oauth_token_provider"] is provider
        provider._good_until = 0.0  # as if its time were over
        Endpoint.life_s = 0
        assert await provider.token() == "token-2"
        file.write_text(CANARY)
        with pytest.raises(AuthenticationFailedError) as error:  # the secret is read again for every token
            await provider.token()
        assert "HTTP 401: invalid_client" in str(error.value)
        assert CANARY not in str(error.value)
        server.shutdown()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    if not available():
        pytest.skip("no openssl here (Debian: apt-get install openssl)")
    return Authority(tmp_path_factory.mktemp("authority") / "ca")


@pytest.fixture(scope="module")
def ours(authority: Authority) -> Certificate:
    return authority.sign("worker", password="sesame")


def test_certificates_that_do_not_fit_are_one_line_that_names_the_file(
    authority: Authority, ours: Certificate, tmp_path: Path
) -> None:
    other = authority.sign("other")
    password, wrong, junk = tmp_path / "password", tmp_path / "wrong", tmp_path / "junk"
    password.write_text("sesame\n")
    wrong.write_text(CANARY)
    junk.write_text(CANARY)
    for files, says in (
        ({"ca_file": junk}, f"kafka.ca_file: {junk} holds no certificates"),
        ({"ca_file": tmp_path / "none"}, "kafka.ca_file"),
        ({"certificate_file": junk}, f"kafka.certificate_file: {junk} holds no certificate"),
        ({"certificate_file": other.certificate}, "holds no private key"),
        ({"certificate_file": other.certificate, "key_file": junk}, f"kafka.key_file: {junk} holds no private key"),
        ({"certificate_file": other.certificate, "key_file": tmp_path / "none"}, "kafka.key_file"),
        ({"certificate_file": ours.certificate, "key_file": other.key}, "is not the key of"),
        ({"certificate_file": ours.certificate, "key_file": ours.key}, "kafka.key_password_file is not named"),
        (
            {"certificate_file": ours.certificate, "key_file": ours.key, "key_password_file": wrong},
            "kafka.key_password_file does not open it",
        ),
    ):
        with pytest.raises(UserError) as error:
            security.client(Kafka(security_protocol="SSL", **files))
        assert says in str(error.value)
        assert "\n" not in str(error.value)
        assert CANARY not in str(error.value)
    fits = {"certificate_file": ours.certificate, "key_file": ours.key, "key_password_file": password}
    assert security.client(Kafka(security_protocol="SSL", ca_file=authority.ca_file, **fits))["ssl_context"]


def test_an_s3_authority_that_is_none_is_said(tmp_path: Path) -> None:
    junk = tmp_path / "junk"
    junk.write_text(CANARY)
    with pytest.raises(UserError, match=r"store\.ca_file"):
        open_store(Settings(store=Store(url="s3://bucket", ca_file=junk)))
    with pytest.raises(UserError, match=r"store\.secret_key_file"):
        open_store(Settings(store=Store(url="s3://bucket", secret_key_file=tmp_path / "none")))


def test_secrets_are_masked_and_where_they_lie_is_shown() -> None:
    kafka = Kafka(
        security_protocol="SASL_SSL",
        sasl_mechanism="PLAIN",
        username="worker",
        password=SecretStr(CANARY),
        ca_file=Path("/etc/ca.pem"),
    )
    settings = Settings(kafka=kafka, store=Store(url="s3://b", secret_key=SecretStr(CANARY)))
    assert CANARY not in str(shown(settings)) + repr(settings) + str(settings.model_dump())
    assert shown(settings)["kafka"]["password"] == "****"
    named = Settings(store=Store(url="s3://b", secret_key_file=Path("/run/secrets/s3")))
    assert shown(named)["store"]["secret_key_file"] == "/run/secrets/s3"


def test_a_child_process_gets_the_secrets_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    kafka = Kafka(
        bootstrap_servers="kafka:9092",
        security_protocol="SASL_SSL",
        sasl_mechanism="PLAIN",
        username="worker",
        password=SecretStr(CANARY),
        ca_file=Path("/etc/ca.pem"),
    )
    for name, value in environment(Settings(kafka=kafka)).items():
        monkeypatch.setenv(name, value)
    assert load().kafka == kafka


def test_aiokafkas_own_lines_stay_above_debug() -> None:
    """At debug it writes every request, and with it passwords and tokens."""
    import subprocess
    import sys

    code = (
        "import logging; from stream_worker import telemetry; from stream_worker.settings import Log; "
        "telemetry.configure(Log(level='debug')); print(logging.getLogger('aiokafka.conn').getEffectiveLevel())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert int(done.stdout) >= logging.WARNING


def test_every_client_of_the_service_is_made_with_the_way_in() -> None:
    """One that is made without it works on PLAINTEXT, where nearly all tests are, and nowhere else."""
    import ast

    package = Path(security.__file__).parents[1]
    made = 0
    for module in package.rglob("*.py"):
        if module.parent.name == "local_kafka":  # the private broker asks nobody who they are
            continue
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
            name = getattr(node.func, "id", "") if isinstance(node, ast.Call) else ""
            if name in ("AIOKafkaConsumer", "AIOKafkaProducer", "AIOKafkaAdminClient", "AIOKafkaClient", "create_conn"):
                made += 1
                assert any(one.arg is None for one in node.keywords), f"{module}:{node.lineno}"
    assert made >= 12
