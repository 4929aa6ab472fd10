"""No secret is ever said: each is a canary here, and is looked for in all that commands and workers write."""

from __future__ import annotations

import signal
import subprocess
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from stream_worker.errors import Exit
from stream_worker.local_kafka.ports import free_port
from stream_worker.security.acl import Role
from tests.command import COMMAND, environ, stream_worker
from tests.conftest import run
from tests.servers.s3 import S3Server
from tests.servers.secured_kafka import SecuredKafka

pytestmark = pytest.mark.timeout(600)

ROOT = Path(__file__).parents[2]
PREFIX = "secrets-"
CANARIES = {
    "KAFKA__PASSWORD": "canary-password-1",
    "STORE__SECRET_KEY": "canary-s3-secret-2",
    "STORE__ACCESS_KEY": "canary-s3-access-3",
}


@pytest.fixture(scope="module", autouse=True)
def _furnished(secured: SecuredKafka) -> None:
    run(secured.furnish(PREFIX))


def require_silence(said: str, *canaries: str) -> None:
    assert said
    for canary in (*CANARIES.values(), *canaries):
        assert canary not in said


def test_config_and_help_say_none(tmp_path: Path) -> None:
    settings = {"KAFKA__SECURITY_PROTOCOL": "SASL_SSL", "KAFKA__SASL_MECHANISM": "PLAIN", "KAFKA__USERNAME": "worker"}
    for arguments in (("config",), ("--help",), ("config", "--help"), ("config", "--defaults"), ("acls", "--print")):
        done = stream_worker(tmp_path, *arguments, **settings, **CANARIES)
        assert done.returncode == Exit.OK, done.stderr
        require_silence(done.stdout + done.stderr)
    shown = stream_worker(tmp_path, "config", **settings, **CANARIES).stdout
    assert "****" in shown
    assert "SASL_SSL" in shown


@pytest.mark.parametrize(
    "setting",
    [
        {"KAFKA__BOOTSTRAP_SERVERS": "user:canary-userinfo@kafka:9092"},
        {"KAFKA__PASSWORD": '["canary-userinfo"'},
        {"KAFKA": '{"password": "canary-userinfo", "nonsense": 1}'},
        {"KAFKA": '{"password": "canary-userinfo"'},
        {"STORE__URL": "s3://key:canary-userinfo@bucket"},
        {"STORE__ENDPOINT": "key:canary-userinfo@host"},
        {"KAFKA__OAUTH_TOKEN_ENDPOINT": "https://id:canary-userinfo@idp.example"},
        {"KAFKA__SECURITY_PROTOCOL": "canary-userinfo"},
        {"KAFKA__PASSWRD": "canary-userinfo"},
    ],
)
def test_a_mistake_is_told_without_what_was_written(tmp_path: Path, setting: dict[str, str]) -> None:
    done = stream_worker(tmp_path, "config", **setting)
    assert done.returncode == Exit.USAGE, done.stdout
    assert "Traceback" not in done.stderr
    require_silence(done.stderr + done.stdout, "canary-userinfo")


def test_a_worker_says_none_at_debug_nor_in_its_metrics(
    secured: SecuredKafka, s3: S3Server, bucket: str, tmp_path: Path
) -> None:
    """A detector that really gets in with them, into Kafka and an S3 server, from its start to its end."""
    kafka = secured.by_password(Role.DETECTOR, PREFIX, listener="SASLTLS")
    port = free_port()
    settings = {
        "KAFKA__BOOTSTRAP_SERVERS": str(kafka.bootstrap_servers),
        "KAFKA__PREFIX": PREFIX,
        "KAFKA__PARTITIONS": "2",
        "KAFKA__SECURITY_PROTOCOL": "SASL_SSL",
        "KAFKA__SASL_MECHANISM": "SCRAM-SHA-512",
        "KAFKA__USERNAME": "detector",
        "KAFKA__PASSWORD_FILE": str(kafka.password_file),
        "KAFKA__CA_FILE": str(kafka.ca_file),
        "STORE__URL": f"s3://{bucket}",
        "STORE__ENDPOINT": s3.endpoint,
        "STORE__SECURE": "false",
        "STORE__ACCESS_KEY": s3.access_key,
        "STORE__SECRET_KEY": s3.secret_key,
        "DETECTOR__MODEL": "tests.stubs:Counted",
        "LOG__LEVEL": "debug",
        "LOG__FORMAT": "json",
        "METRICS__PORT": str(port),
    }
    log = tmp_path / "log"
    with log.open("wb") as file:
        worker = subprocess.Popen(
            [*COMMAND, "detect", "--name", "d-0"],
            env={**environ(tmp_path, **settings), "PYTHONPATH": str(ROOT)},
            stdout=file,
            stderr=file,
            stdin=subprocess.DEVNULL,
        )
    try:
        while '"event":"ready"' not in log.read_text():
            assert worker.poll() is None, log.read_text()
            time.sleep(0.2)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
            metrics = answer.read().decode()
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(120) == Exit.OK, log.read_text()
    finally:
        worker.kill()
        worker.wait()
    assert '"level":"debug"' in log.read_text()
    for said in (log.read_text(), metrics):
        require_silence(said, secured.passwords[Role.DETECTOR], s3.secret_key)


def test_keys_and_tokens_are_not_said_where_they_are_refused(secured: SecuredKafka, tmp_path: Path) -> None:
    class Endpoint(BaseHTTPRequestHandler):
        """Gives whoever asks a token that Kafka refuses."""

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"access_token": "canary-token", "expires_in": 60}')

        def log_message(self, *_: object) -> None: ...

    secret, password = tmp_path / "client-secret", tmp_path / "key-password"
    secret.write_text("canary-client-secret")
    password.write_text("canary-key-password")
    own = secured.by_certificate(Role.READER)
    with ThreadingHTTPServer(("127.0.0.1", 0), Endpoint) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        by_token = {
            "KAFKA__BOOTSTRAP_SERVERS": secured.server("OAUTH"),
            "KAFKA__SECURITY_PROTOCOL": "SASL_PLAINTEXT",
            "KAFKA__SASL_MECHANISM": "OAUTHBEARER",
            "KAFKA__OAUTH_TOKEN_ENDPOINT": f"http://127.0.0.1:{server.server_port}/token",
            "KAFKA__OAUTH_CLIENT_ID": "worker",
            "KAFKA__OAUTH_CLIENT_SECRET_FILE": str(secret),
        }
        by_key = {
            "KAFKA__BOOTSTRAP_SERVERS": secured.server("MTLS"),
            "KAFKA__SECURITY_PROTOCOL": "SSL",
            "KAFKA__CERTIFICATE_FILE": str(own.certificate_file),
            "KAFKA__KEY_FILE": str(own.key_file),
            "KAFKA__KEY_PASSWORD_FILE": str(password),
        }
        for settings, says in ((by_token, "refuses our token"), (by_key, "does not open it")):
            done = stream_worker(tmp_path, "topics", "check", timeout_s=120, LOG__LEVEL="debug", **settings)
            assert says in done.stderr
            assert "Traceback" not in done.stderr
            require_silence(done.stderr + done.stdout, "canary-token", "canary-client-secret", "canary-key-password")
        server.shutdown()
