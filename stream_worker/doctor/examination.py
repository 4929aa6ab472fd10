"""All checks, side by side, each with a time limit of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Collection, Iterator

from stream_worker.doctor import blobs, clock, gpu, host, interpreters, layout, reach, rights, weights
from stream_worker.doctor.check import Finding, Part, not_checked, within
from stream_worker.settings import Settings
from stream_worker.store.threads import Threads

THREADS = 12
"""More than there are checks: one that hangs in a dead mount keeps no other waiting."""
QUICK_S = 10.0
BROKER_TIMES = 4
"""A broker is asked up to so many times, each as long as kafka.request_timeout_ms: whether it answers, why not, ..."""
STORE_TIMES = 12
"""... and the store: put, get, conditional put, delete and look, each tried twice."""

MODELS = (Part.DETECTOR, Part.RECONSTRUCTOR)
"""The parts that have a model, photos and a store."""


async def examine(settings: Settings, parts: Collection[Part]) -> list[Finding]:
    """What is found, in a fixed order."""
    threads = Threads(THREADS, "doctor")
    try:
        found = await asyncio.gather(*_checks(settings, parts, threads))
    finally:
        threads.close()
    return [finding for findings in found for finding in findings]


def _checks(settings: Settings, parts: Collection[Part], threads: Threads) -> Iterator[Awaitable[list[Finding]]]:
    models = [part for part in MODELS if part in parts]
    yield within("versions", QUICK_S, host.versions())
    yield _kafka(settings, parts)
    if models:
        yield within("store", STORE_TIMES * settings.store.timeout_s, blobs.blobs(settings, threads))
    yield within("clock", QUICK_S + 2 * settings.store.timeout_s, clock.clock(settings, threads))
    for part in models:
        section = settings.detector if part is Part.DETECTOR else settings.reconstructor
        yield within("python", interpreters.LIMIT_S + QUICK_S, interpreters.interpreter(settings, part))
        yield within("weights", section.load_timeout_s, weights.weights(settings, part, threads))
        yield within("gpu", gpu.LIMIT_S + QUICK_S, gpu.gpu(settings, part))
    yield within("disk", QUICK_S, host.disk(settings, threads))
    if models:
        yield within("scratch", QUICK_S, host.scratch(settings, models, threads))
    yield within("limits", QUICK_S, host.limits())


async def _kafka(settings: Settings, parts: Collection[Part]) -> list[Finding]:
    """The broker first, then what only a broker that lets us in can tell."""
    kafka = None

    async def asked() -> list[Finding]:
        nonlocal kafka
        found, kafka = await reach.brokers(settings)
        return found

    limit_s = BROKER_TIMES * settings.kafka.request_timeout_ms / 1000 + QUICK_S
    findings = await within("broker", limit_s, asked())
    if kafka is None:
        return [*findings, *(not_checked(name, "no broker lets us in") for name in ("topics", "acls"))]
    more = await asyncio.gather(
        within("topics", limit_s, layout.layout(kafka, parts)),
        within("acls", limit_s, rights.rights(kafka, parts)),
    )
    return [*findings, *(finding for one in more for finding in one)]
