"""The crash points: every step of a worker's work, wrapped from outside.

Points are `before STEP` and `after STEP`, for the steps
`take over` (the lane's producer is started), `restore` (the aggregator's changelog is read), `process` (a record),
`fetch`, `put` (a photo or a PLY), `note` (of a finished fingerprint), `infer`,
`begin`, `first produce`, `last produce`, `offsets`, `commit`;
and `commit sent`: the broker has been asked, and its answer was not read yet.
After a produce the output lies in the topic, uncommitted.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.conn import AIOKafkaConnection
from aiokafka.protocol.transaction import EndTxnRequest

from stream_worker.transaction import TransactionalProducer
from tests.faults.crash_points.plan import Plan, Shot

Method = Callable[..., Awaitable[Any]]


@dataclass
class Transaction:
    """The one that the task at hand writes."""

    outputs: int
    topics: frozenset[str]
    carries: bool
    """Outputs and offsets, both: not the clock's outputs alone, nor a note that moves nothing."""
    sent: int = 0

    def suits(self, shot: Shot) -> bool:
        """Whether it is of the kind that the shot waits for."""
        return self.carries and self.outputs >= shot.outputs and (shot.topic is None or shot.topic in self.topics)


TRANSACTION: ContextVar[Transaction | None] = ContextVar("transaction", default=None)


class Gun:
    """Counts the passes of one point, and fires at the one that the plan means, once in this life."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._shot: Shot | None = plan.next()
        self._passes = 0
        self.commits: Counter[str] = Counter()
        """By transactional id, with 0 of a lane that was taken over and has none yet."""
        self.ending: set[str] = set()
        """Transactional ids that a commit is under way for: requests are sent by a task of the client's own."""

    def aims_at(self, point: str) -> bool:
        """Whether this life is to end at this point."""
        return self._shot is not None and self._shot.point == point

    def at(self, point: str, key: str | None = None) -> None:
        """A point is passed now."""
        shot, transaction = self._shot, TRANSACTION.get()
        if shot is None or not self.aims_at(point) or shot.key not in (None, key):
            return
        if min(self.commits.values(), default=0) < shot.commits:
            return
        if transaction is not None and not transaction.suits(shot):
            return
        self._passes += 1
        if self._passes == shot.nth:
            self._shot = None
            self._plan.note()
            os.kill(os.getpid(), shot.signal)


def install(file: str, command: str) -> None:
    """Wrap the steps of the worker that `stream-worker COMMAND` runs."""
    gun = Gun(Plan(Path(file)))
    _wrap(TransactionalProducer, "start", _step(gun, "take over"))
    _wrap(TransactionalProducer, "start", _lane(gun))
    _wrap(TransactionalProducer, "write", _transaction)
    _wrap(AIOKafkaProducer, "begin_transaction", _step(gun, "begin"))
    _wrap(AIOKafkaProducer, "send", _produce(gun))
    _wrap(AIOKafkaProducer, "send_offsets_to_transaction", _step(gun, "offsets"))
    _wrap(AIOKafkaProducer, "commit_transaction", _commit(gun))
    _wrap_request(gun)
    _wrap(_group(command), "process", _step(gun, "process", lambda record: (record.key or b"").decode()))
    if command == "aggregate":
        _wrap(_group(command), "open", _step(gun, "restore"))
        return
    from stream_worker.models.host import ModelHost
    from stream_worker.store import Store

    _wrap(Store, "put", _put(gun))
    _wrap(ModelHost, "infer", _infer(gun))
    if command == "detect":
        from stream_worker.images.fetch import Fetcher

        _wrap(Fetcher, "fetch", _step(gun, "fetch"))


def _group(command: str) -> type:
    if command == "detect":
        from stream_worker.detector import Detector

        return Detector
    if command == "reconstruct":
        from stream_worker.reconstructor import Reconstructor

        return Reconstructor
    from stream_worker.aggregator.service import Aggregator

    return Aggregator


def _wrap(owner: type, name: str, around: Callable[[Method], Method]) -> None:
    method = getattr(owner, name)
    setattr(owner, name, wraps(method)(around(method)))


def _step(gun: Gun, step: str, key: Callable[[Any], str] | None = None) -> Callable[[Method], Method]:
    def around(method: Method) -> Method:
        async def passed(self: Any, *args: Any, **named: Any) -> Any:
            of = key(args[0]) if key else None
            gun.at(f"before {step}", of)
            result = await method(self, *args, **named)
            gun.at(f"after {step}", of)
            return result

        return passed

    return around


def _lane(gun: Gun) -> Callable[[Method], Method]:
    def around(method: Method) -> Method:
        async def passed(self: Any) -> None:
            gun.commits.setdefault(self._id, 0)
            await method(self)

        return passed

    return around


def _transaction(method: Method) -> Method:
    async def passed(self: Any, outputs: Any, offsets: Any) -> Any:
        there = frozenset(one.topic for one in outputs)
        TRANSACTION.set(Transaction(len(outputs), there, bool(outputs and offsets)))
        try:
            return await method(self, outputs, offsets)
        finally:
            TRANSACTION.set(None)

    return passed


def _produce(gun: Gun) -> Callable[[Method], Method]:
    def around(method: Method) -> Method:
        async def passed(self: Any, *args: Any, **named: Any) -> Any:
            transaction = TRANSACTION.get()
            if transaction is None:
                return await method(self, *args, **named)
            transaction.sent += 1
            first, last = transaction.sent == 1, transaction.sent == transaction.outputs
            if first:
                gun.at("before first produce")
            if last:
                gun.at("before last produce")
            sent = await method(self, *args, **named)
            for there, point in ((first, "after first produce"), (last, "after last produce")):
                if there and gun.aims_at(point):
                    await self.flush()
                    gun.at(point)
            return sent

        return passed

    return around


def _commit(gun: Gun) -> Callable[[Method], Method]:
    def around(method: Method) -> Method:
        async def passed(self: Any) -> None:
            gun.at("before commit")
            transaction, of = TRANSACTION.get(), self._txn_manager.transactional_id
            if transaction is not None and transaction.carries:
                gun.ending.add(of)
            try:
                await method(self)
            finally:
                gun.ending.discard(of)
            gun.at("after commit")
            gun.commits[of] += transaction is not None and transaction.carries

        return passed

    return around


def _wrap_request(gun: Gun) -> None:
    method = AIOKafkaConnection.send

    def passed(self: Any, request: Any, *args: Any, **named: Any) -> Any:
        answer = method(self, request, *args, **named)
        if isinstance(request, EndTxnRequest) and request._transactional_id in gun.ending:
            gun.at("commit sent")
        return answer

    AIOKafkaConnection.send = passed


def _put(gun: Gun) -> Callable[[Method], Method]:
    def around(method: Method) -> Method:
        async def passed(self: Any, key: str, *args: Any, **named: Any) -> Any:
            step = "note" if key.endswith("/result.json") else "put"
            return await _step(gun, step)(method)(self, key, *args, **named)

        return passed

    return around


def _infer(gun: Gun) -> Callable[[Method], Method]:
    def around(method: Method) -> Method:
        async def passed(self: Any, *args: Any, **named: Any) -> Any:
            if self.name.startswith("decoder"):
                return await method(self, *args, **named)
            return await _step(gun, "infer")(method)(self, *args, **named)

        return passed

    return around
