"""The local default: a private single-node Apache Kafka (KRaft) with its data in a folder.

The broker runs in the foreground (it dies with the process that started it) or as a daemon (it stays, and
`status` and `stop_daemon` find it by its folder). The folder holds:

    lock               held by the running broker itself: a second one of the same folder can't start
    broker.json        pid, start time and port of the broker that was started last
    log/               Kafka's data, formatted at the first start
    server.properties, log4j2.properties       written at every start
    kafka.log, jvm.log                         what the broker and its JVM say (and .previous: the run before)
"""

from stream_worker.local_kafka.broker import LocalKafka
from stream_worker.local_kafka.config import KAFKA_VERSION
from stream_worker.local_kafka.state import BrokerStatus, status, stop_daemon

__all__ = ["KAFKA_VERSION", "BrokerStatus", "LocalKafka", "status", "stop_daemon"]
