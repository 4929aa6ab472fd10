"""Every metric of the service: the closed, commented registry. Nothing else creates one.

Names follow Prometheus' conventions (seconds, bytes, `_total`). Values of labels are closed sets (`LABELS`): no ids, no
addresses, nothing that a user sent. A worker serves them at `/metrics` where `metrics.port` is set. The table of all of
them is ops/metrics.md, what to do about them ops/runbook.md.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib.metadata import version

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    start_http_server,
)

from stream_worker.errors import Exit, Ours, Reason, UserError

OUTCOMES = ("done", "failed")
STATUSES = ("complete", "partial", "failed")
PHASES = ("queue", "fetch", "decode", "store", "detect", "wait", "reconstruct", "reuse")
"""Of a record, as events tell them in `times`. What a model says of its own steps is no label: no child is trusted."""
MODEL_STATES = ("starting", "ready", "busy", "hung", "dead")
END_CAUSES = ("crash", "timeout", "recycle", "failed_start")
LANE_STATES = ("open", "opening")

LABELS: Mapping[str, str] = {
    "stage": "the group: detector, reconstructor, aggregator",
    "outcome": ", ".join(OUTCOMES),
    "reason": "the closed list of [failures.md](failures.md#reason-codes)",
    "of": ", ".join(Ours),
    "phase": ", ".join(PHASES) + ": as in `times` of the events",
    "topic": "one of the service's topics, without the deployment's prefix",
    "partition": "its number",
    "status": ", ".join(STATUSES),
    "state": "of a lane: "
    + ", ".join(LANE_STATES)
    + "; of a model: "
    + ", ".join(MODEL_STATES)
    + "; of an image in the join: awaiting_manifest, awaiting_results, finished",
    "model": "whose process: detector, reconstructor, decoder-0, decoder-1...",
    "cause": ", ".join(END_CAUSES),
    "version": "of stream_worker",
    "python": "of the worker's interpreter",
}
"""What each label may say."""

SHORT_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
PHASE_S = (*SHORT_S, 300, 900)
IMAGE_S = (1, 2.5, 5, 10, 30, 60, 120, 300, 600, 900, 1800, 3600, 14_400)

REGISTRY = CollectorRegistry()
# Without it, a gauge that nobody asks for stands beside each counter and histogram.
disable_created_metrics()  # type: ignore[no-untyped-call]  # it has no types

BUILD_INFO = Gauge(
    "stream_worker_build_info",
    "1 for as long as a worker of the stage is up.",
    ["stage", "version", "python"],
    registry=REGISTRY,
)
PROCESS = ProcessCollector(registry=REGISTRY)

# ------------------------------------------------------------------ work done

RECORDS = Counter(
    "stream_worker_records_total",
    "Records whose outcome is committed.",
    ["stage", "outcome"],
    registry=REGISTRY,
)
PHASE_SECONDS = Histogram(
    "stream_worker_phase_seconds",
    "Seconds of a record, phase by phase; of the aggregator only the queue. What is committed comes after all of them: "
    "stream_worker_transaction_seconds.",
    ["stage", "phase"],
    buckets=PHASE_S,
    registry=REGISTRY,
)
TRANSACTION_SECONDS = Histogram(
    "stream_worker_transaction_seconds",
    "Seconds of a transaction with all its records, from its beginning to the broker's answer or the error.",
    ["stage"],
    buckets=SHORT_S,
    registry=REGISTRY,
)
IMAGE_SECONDS = Histogram(
    "stream_worker_image_seconds",
    "Seconds from an image's publishing to its outcome, by what the outcome is; every revision counts.",
    ["status"],
    buckets=IMAGE_S,
    registry=REGISTRY,
)

# ------------------------------------------------------------------ work that waits

LAG_RECORDS = Gauge(
    "stream_worker_lag_records",
    "Records of a partition that are not committed, those in hand and, of those still unread, transaction markers "
    "included. Known to within metrics.refresh_s.",
    ["stage", "topic", "partition"],
    registry=REGISTRY,
)
OLDEST_WAITING_SECONDS = Gauge(
    "stream_worker_oldest_waiting_seconds",
    "Age of the oldest record of a partition that is not committed, by its own timestamp; of one that nobody has read "
    "yet, since it was first seen to wait. 0 while none does.",
    ["stage", "topic", "partition"],
    registry=REGISTRY,
)
IN_FLIGHT = Gauge(
    "stream_worker_in_flight",
    "Records that the stage works on at this moment.",
    ["stage"],
    registry=REGISTRY,
)
IN_FLIGHT_LIMIT = Gauge(
    "stream_worker_in_flight_limit",
    "Records that the stage works on at most.",
    ["stage"],
    registry=REGISTRY,
)

# ------------------------------------------------------------------ the group and its loop

LANES = Gauge(
    "stream_worker_lanes",
    "Partitions that the worker has, by whether it works on them yet.",
    ["stage", "state"],
    registry=REGISTRY,
)
REBALANCES = Counter(
    "stream_worker_rebalances_total",
    "Assignments of partitions that the worker was given.",
    ["stage"],
    registry=REGISTRY,
)
PROGRESS_AGE_SECONDS = Gauge(
    "stream_worker_progress_age_seconds",
    "Seconds since records were last taken or committed, or an outage looked at. It grows while there is nothing to "
    "do, too.",
    ["stage"],
    registry=REGISTRY,
)
WATCHDOG_SECONDS = Gauge(
    "stream_worker_watchdog_seconds",
    "Without progress for this long, and with work waiting, the worker ends itself (stage.watchdog_s, and the longest "
    "that its models may take).",
    ["stage"],
    registry=REGISTRY,
)
LOOP_DELAY_SECONDS = Gauge(
    "stream_worker_loop_delay_seconds",
    "How late the event loop was at the worst in the last quarter of a minute, or is now.",
    ["stage"],
    registry=REGISTRY,
)

# ------------------------------------------------------------------ failures

OUTAGE_SECONDS = Gauge(
    "stream_worker_outage_seconds",
    "How long the present outage of ours (broker, store, model) has been waited out; 0 while there is none.",
    ["of"],
    registry=REGISTRY,
)
ERRORS = Counter(
    "stream_worker_errors_total",
    "Attempts at a record that failed, those that were tried again included.",
    ["stage", "reason"],
    registry=REGISTRY,
)
RETRIES = Counter(
    "stream_worker_retries_total",
    "Further attempts at a record after a transient fault.",
    ["stage", "reason"],
    registry=REGISTRY,
)
DEAD_LETTERS = Counter(
    "stream_worker_dead_letters_total",
    "Records that no retry could mend.",
    ["stage", "reason"],
    registry=REGISTRY,
)
PRODUCERS_LOST = Counter(
    "stream_worker_producers_lost_total",
    "Transactional producers thrown away after a doubt; the lane took over anew.",
    ["stage"],
    registry=REGISTRY,
)
CRASHED_TAKEOVERS = Counter(
    "stream_worker_crashed_takeovers_total",
    "Lanes taken over from an owner that had not closed them: it crashed, was killed, or was given up.",
    ["stage"],
    registry=REGISTRY,
)

# ------------------------------------------------------------------ the join

JOIN_IMAGES = Gauge(
    "stream_worker_join_images",
    "Images that the open lanes hold, by state: awaiting_manifest, awaiting_results, finished.",
    ["state"],
    registry=REGISTRY,
)
JOIN_OLDEST_SECONDS = Gauge(
    "stream_worker_join_oldest_seconds",
    "How long the join has waited for an image: of those that are open, the one whose deadline comes first.",
    registry=REGISTRY,
)
JOIN_EXPIRED = Counter(
    "stream_worker_join_expired_total",
    "Images completed by their deadline, without all of their results.",
    registry=REGISTRY,
)
JOIN_BYTES = Gauge(
    "stream_worker_join_bytes",
    "Bytes of events that the open lanes hold, and what keeping them costs (an estimate).",
    registry=REGISTRY,
)
JOIN_LIMIT_BYTES = Gauge(
    "stream_worker_join_limit_bytes",
    "Bytes that the open lanes may hold (aggregator.memory_mb).",
    registry=REGISTRY,
)
JOIN_FULL_LANES = Gauge(
    "stream_worker_join_full_lanes",
    "Open lanes that take no more of an input, for want of memory.",
    registry=REGISTRY,
)
JOIN_FORGOTTEN_EARLY = Counter(
    "stream_worker_join_forgotten_early_total",
    "Finished images forgotten before their grace was over, for want of memory (aggregator.memory_mb).",
    registry=REGISTRY,
)

# ------------------------------------------------------------------ models

MODEL_STATE = Gauge(
    "stream_worker_model_state",
    "1 for what the model's process is doing.",
    ["model", "state"],
    registry=REGISTRY,
)
MODEL_TASK_SECONDS = Histogram(
    "stream_worker_model_task_seconds",
    "Seconds that a task had the model, those of tasks that crashed or hung included. The rate of the sum is the share "
    "of time that the model was busy.",
    ["model"],
    buckets=PHASE_S,
    registry=REGISTRY,
)
MODEL_STARTS = Counter(
    "stream_worker_model_starts_total",
    "Starts of a model's process that succeeded.",
    ["model"],
    registry=REGISTRY,
)
MODEL_COMPILED = Gauge(
    "stream_worker_model_compiled",
    "1 where the model runs compiled, 0 where it says that it does not: compiling is off or has failed (see the log).",
    ["model"],
    registry=REGISTRY,
)
MODEL_ENDS = Counter(
    "stream_worker_model_ends_total",
    "Ends of a model's process that nobody wished for, by cause: crash, timeout, recycle, failed_start.",
    ["model", "cause"],
    registry=REGISTRY,
)
MODEL_OUT_OF_MEMORY = Counter(
    "stream_worker_model_out_of_memory_total",
    "Tasks for which GPU memory, or the process's part of it, was not enough.",
    ["model"],
    registry=REGISTRY,
)
MODEL_MEMORY_BYTES = Gauge(
    "stream_worker_model_memory_bytes",
    "Resident memory of the model's process.",
    ["model"],
    registry=REGISTRY,
)
MODEL_GPU_MEMORY_BYTES = Gauge(
    "stream_worker_model_gpu_memory_bytes",
    "GPU memory that torch holds in the model's process, CUDA's context aside, as it said last; 0 without a GPU.",
    ["model"],
    registry=REGISTRY,
)
MODEL_GPU_MEMORY_LIMIT_BYTES = Gauge(
    "stream_worker_model_gpu_memory_limit_bytes",
    "GPU memory that torch may hold there: the card's, or gpu_memory_mb of it; 0 without a GPU.",
    ["model"],
    registry=REGISTRY,
)
BATCH_PHOTOS = Histogram(
    "stream_worker_batch_photos",
    "Photos that a detector's model was given at once.",
    ["model"],
    buckets=(1, 2, 4, 8, 16, 32, 64, 128),
    registry=REGISTRY,
)


def observe_phases(stage: str, times: Mapping[str, float]) -> None:
    """Take a record's seconds in, those of `PHASES`."""
    for phase in PHASES:
        if (seconds := times.get(phase)) is not None:
            PHASE_SECONDS.labels(stage, phase).observe(seconds)


def begin(stage: str) -> None:
    """Say that a worker of the stage is up, and show a zero for all that it may come to count.

    To Prometheus, a counter that first shows itself at 1 has not increased.
    """
    BUILD_INFO.labels(stage, version("stream-worker"), platform.python_version()).set(1)
    for counter in (PRODUCERS_LOST, CRASHED_TAKEOVERS, REBALANCES, TRANSACTION_SECONDS):
        counter.labels(stage)
    for outcome in OUTCOMES:
        RECORDS.labels(stage, outcome)
    for counter in (ERRORS, RETRIES, DEAD_LETTERS):
        for reason in Reason:
            counter.labels(stage, reason.value)
    if stage == "aggregator":
        for status in STATUSES:
            IMAGE_SECONDS.labels(status)


def begin_model(model: str) -> None:
    """The same of a model's process."""
    for counter in (MODEL_STARTS, MODEL_OUT_OF_MEMORY, MODEL_TASK_SECONDS):
        counter.labels(model)
    for cause in END_CAUSES:
        MODEL_ENDS.labels(model, cause)


def serve(port: int, host: str) -> None:
    """Serve `/metrics` from a thread of its own, for the life of the process. Raises UserError (Exit.PORT)."""
    try:
        start_http_server(port, host, registry=REGISTRY)
    except OSError as error:
        raise UserError(f"metrics can't be served at {host}:{port}: {error.strerror}", Exit.PORT) from None
