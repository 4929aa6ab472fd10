"""Which Kafka the local broker is, and its settings, sized for one node."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from stream_worker.local_kafka.ports import HOST

KAFKA_VERSION = "4.4.0"
KAFKA_MINIMUM = (4, 0)
ARTIFACTS = (
    f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}",
    "org.apache.logging.log4j:log4j-slf4j-impl:2.25.5",  # the broker's own choice of log, missing in its pom
)
WAYS = (
    "install Java 17 and Maven, or set KAFKA_HOME to an unpacked Apache Kafka 4, or name a broker with "
    "kafka.bootstrap_servers (STREAM_WORKER_KAFKA__BOOTSTRAP_SERVERS), for example that of `docker compose up kafka`"
)

# On two busy cores the first JIT compiler and the serial collector start the broker in 1.7 s; the defaults
# take 2.9 s and compete with the models for the processor.
JVM_FLAGS = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:+ExitOnOutOfMemoryError", "-Djava.awt.headless=true")

NODE_CONFIG = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
    "log.dirs": "log",  # relative: a comma in the folder's name would make two
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "5",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "5",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "share.coordinator.state.topic.num.partitions": "1",
    "group.initial.rebalance.delay.ms": "0",
    "auto.create.topics.enable": "false",
    # A broker that was killed may come back only when its old session is over: 12 s with Kafka's 9 s.
    "broker.session.timeout.ms": "4000",
    "broker.heartbeat.interval.ms": "500",
    "log.cleaner.dedupe.buffer.size": "8388608",  # 128 MB otherwise, out of our heap
    "log.index.size.max.bytes": "1048576",
}

LOG4J = """status = error
appender.file.type = RollingFile
appender.file.name = file
appender.file.fileName = kafka.log
appender.file.filePattern = kafka.log.%i
appender.file.layout.type = PatternLayout
appender.file.layout.pattern = %d %p %c{1} %m%n
appender.file.policies.type = Policies
appender.file.policies.size.type = SizeBasedTriggeringPolicy
appender.file.policies.size.size = 10MB
appender.file.strategy.type = DefaultRolloverStrategy
appender.file.strategy.max = 2
rootLogger.level = warn
rootLogger.appenderRef.file.ref = file
"""


def server_properties(port: int, controller_port: int, over: Mapping[str, str]) -> str:
    """The text of server.properties; `over` stands over our settings."""
    values = NODE_CONFIG | {
        "listeners": f"PLAINTEXT://{HOST}:{port},CONTROLLER://{HOST}:{controller_port}",
        "advertised.listeners": f"PLAINTEXT://{HOST}:{port}",
        "controller.quorum.voters": f"1@{HOST}:{controller_port}",
    }
    return "".join(f"{key}={value}\n" for key, value in (values | dict(over)).items())


def installed_version(libs: Path) -> tuple[int, ...] | None:
    """The version of the Kafka whose jars are in this folder."""
    for jar in libs.glob("kafka_2.*-*.jar"):
        if found := re.fullmatch(r"kafka_2\.\d+-(\d+(?:\.\d+)+)\.jar", jar.name):
            return tuple(int(part) for part in found[1].split("."))
    return None


def last_word(log: str) -> str:
    """The line of a broker's log that says why it ended: the last exception, else the last error, else the last."""
    lines = [line.strip() for line in log.splitlines()]
    lines = [line for line in lines if line and not re.match(r"at \S+\(|\.\.\. \d+ more", line)]
    causes = [line for line in lines if re.search(r"[\w.$]+(Exception|Error): ", line)]
    errors = [line for line in lines if re.search(r"\b(ERROR|FATAL)\b", line)]
    return (causes or errors or lines or ["its log is empty"])[-1][:300]
