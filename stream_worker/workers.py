"""One worker process: logs, signals, readiness and exit codes around a stage."""

from __future__ import annotations

import asyncio
import faulthandler
import hashlib
import os
import signal
import socket
import sys

from aiokafka.errors import KafkaError

from stream_worker import memory, metrics, telemetry
from stream_worker.errors import Exit, FatalError, UserError
from stream_worker.readiness import notify
from stream_worker.records import Group
from stream_worker.settings import Settings
from stream_worker.stage import Stage

DIE_S = 25.0
"""A worker that must end, and does not within this time, ends without a word to anybody."""

log = telemetry.get(__name__)


def make(group: str, settings: Settings, name: str | None = None) -> Group:
    """The group of that name. Imports only what it needs."""
    if group == "detector":
        from stream_worker.detector import Detector

        return Detector(settings, name)
    if group == "reconstructor":
        from stream_worker.reconstructor import Reconstructor

        return Reconstructor(settings, name)
    from stream_worker.aggregator.service import Aggregator

    return Aggregator(settings, name)


def work(group: str, settings: Settings, name: str | None) -> Exit:
    """Run one worker until SIGTERM or SIGINT; its exit code.

    `name`, unique in the deployment's group on this host, makes it a static member: a restart within the session
    timeout gets its partitions back without a rebalance.
    """
    memory.give_back()
    telemetry.configure(settings.log, stage=group, worker=name or str(os.getpid()))
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    try:
        if settings.metrics.port is not None:
            metrics.begin(group)
            metrics.serve(settings.metrics.port, settings.metrics.host)
        asyncio.run(_work(group, settings, name))
    except UserError as error:
        log.error("can't start", error=str(error))
        notify(status=str(error))
        return error.exit_code
    except KafkaError as error:  # while starting: a stage that runs waits such errors out
        log.error("can't start: the broker went away", error=f"{type(error).__name__}: {error}")
        notify(status=f"the broker went away: {type(error).__name__}")
        return Exit.BROKER
    except FatalError as error:
        notify(status=str(error))
        _flush()
        # Whatever still runs may be what hangs: leave it to the broker and the next worker.
        os._exit(Exit.FATAL)
    return Exit.OK


async def _work(group: str, settings: Settings, name: str | None) -> None:
    made = make(group, settings, name)
    # Two services of one host have folders of their own; their workers must not evict each other.
    folder = hashlib.sha256(bytes(settings.local.data_dir.absolute())).hexdigest()[:8]
    instance = f"{socket.gethostname()}.{folder}.{name}" if name else None

    def ready() -> None:
        log.info("ready")
        notify(ready=True)

    stage = Stage(made, settings, instance=instance, ready=ready)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _drain, stage, settings.stage.drain_s)
    await stage.run()
    log.info("drained")


def _drain(stage: Stage, drain_s: float) -> None:
    stage.stop()
    log.info("draining")
    faulthandler.dump_traceback_later(drain_s + DIE_S, exit=True)


def _flush() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
