"""Every metric of the service: the closed, commented registry. Nothing else creates one.

Names follow Prometheus' conventions (seconds, bytes, `_total`). A worker serves them at `/metrics` where
`metrics.port` is set.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from stream_worker.errors import Exit, UserError

REGISTRY = CollectorRegistry()

# ------------------------------------------------------------------ failures

OUTAGE_SECONDS = Gauge(
    "stream_worker_outage_seconds",
    "How long the present outage of ours (broker, store, model) has been waited out; 0 while there is none.",
    ["of"],
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
JOIN_BYTES = Gauge(
    "stream_worker_join_bytes",
    "Bytes of events that the open lanes hold, and what keeping them costs (an estimate).",
    registry=REGISTRY,
)

JOIN_FORGOTTEN_EARLY = Counter(
    "stream_worker_join_forgotten_early_total",
    "Finished images forgotten before their grace was over, for want of memory (aggregator.memory_mb).",
    registry=REGISTRY,
)

# ------------------------------------------------------------------ models

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
BATCH_PHOTOS = Histogram(
    "stream_worker_batch_photos",
    "Photos that a detector's model was given at once.",
    ["model"],
    buckets=(1, 2, 4, 8, 16, 32, 64, 128),
    registry=REGISTRY,
)


def serve(port: int, host: str) -> None:
    """Serve `/metrics` from a thread of its own, for the life of the process. Raises UserError (Exit.PORT)."""
    try:
        start_http_server(port, host, registry=REGISTRY)
    except OSError as error:
        raise UserError(f"metrics can't be served at {host}:{port}: {error.strerror}", Exit.PORT) from None
