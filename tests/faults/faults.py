"""The faults: real signals to the service's processes and to the brokers', each noted with whether it landed."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

import psutil

from stream_worker.supervisor import Supervisor, Worker
from tests.faults.schedule import Step
from tests.servers.kafka_cluster import KafkaCluster, Node

KILL, KILL_MODEL, ZOMBIE = "kill", "kill model", "zombie"
NODE_KILL, NODE_TERM, NODE_STOP = "node kill", "node term", "node stop"
KINDS = (KILL, KILL_MODEL, ZOMBIE, NODE_KILL, NODE_TERM, NODE_STOP)
OF_NODES = frozenset({NODE_KILL, NODE_TERM, NODE_STOP})
OF_WORKERS = frozenset({KILL, ZOMBIE})
WHOLE_S = 180.0
"""After its fault, the cluster has this long to have everything in sync again."""


@dataclass(slots=True)
class Hit:
    """A fault that landed: it hit something that lived while there was work to do. Moments in seconds of the run."""

    kind: str
    target: str
    at: float
    until: float
    waiting: int
    """Images without an outcome at that moment."""
    age_s: float | None = None
    """How long a worker had lived: one of a few seconds was still starting."""

    @property
    def group(self) -> str | None:
        """The group of the worker that was hit."""
        return None if self.kind in OF_NODES else self.target.rpartition("-")[0]


@dataclass(slots=True)
class Service:
    """What faults can reach, and their log."""

    supervisor: Supervisor
    cluster: KafkaCluster
    spared: frozenset[str]
    """Workers that are never hit: their memory is watched for the whole run."""
    waiting: Callable[[], int]
    started: float
    hits: list[Hit] = field(default_factory=list)
    missed: int = 0
    """Steps that found nobody to hit, or no work."""
    stopped: set[str] = field(default_factory=set)
    troubles: list[str] = field(default_factory=list)

    def now(self) -> float:
        """Seconds of the run."""
        return time.monotonic() - self.started

    def worker(self, step: Step) -> Worker | None:
        """The one that the step picks among those that live and are not stopped."""
        alive = {
            one.name: one
            for one in self.supervisor.workers
            if one.pid is not None and one.name not in self.spared and one.name not in self.stopped
        }
        name = step.pick(list(alive))
        return alive[name] if name is not None else None

    def note(self, kind: str, target: str, age_s: float | None = None) -> Hit | None:
        """Log a fault that has just hit; None where all work was done, so that it proves nothing."""
        waiting = self.waiting()
        if not waiting:
            self.missed += 1
            return None
        hit = Hit(kind, target, round(self.now(), 2), round(self.now(), 2), waiting, age_s)
        self.hits.append(hit)
        return hit

    def over(self, hit: Hit | None) -> None:
        """The fault has ended."""
        if hit is not None:
            hit.until = round(self.now(), 2)


Fault = Callable[[Service, Step], Awaitable[None]]


def send(worker: Worker, number: signal.Signals) -> bool:
    """Whether the signal reached the worker."""
    if worker.pid is None:
        return False
    try:
        os.kill(worker.pid, number)
    except ProcessLookupError:
        return False
    return True


async def kill(service: Service, step: Step) -> None:
    """SIGKILL of a worker: no word to anybody, a transaction perhaps half done."""
    worker = service.worker(step)
    age_s = worker and _age_s(worker)
    if worker is None or age_s is None or not send(worker, signal.SIGKILL):
        service.missed += 1
        return
    service.note(KILL, worker.name, age_s)


async def kill_model(service: Service, step: Step) -> None:
    """SIGKILL of a model's or decoder's process under its worker."""
    worker = service.worker(step)
    try:
        children = [] if worker is None else psutil.Process(worker.pid).children()
        if worker is None or not children:
            service.missed += 1
            return
        children[int(step.draw * 997) % len(children)].kill()
    except psutil.NoSuchProcess:
        service.missed += 1
        return
    service.note(KILL_MODEL, worker.name)


async def zombie(service: Service, step: Step) -> None:
    """SIGSTOP until group and transactions have given the worker up, then SIGCONT: it must find out, and do no harm."""
    worker = service.worker(step)
    if worker is None or not send(worker, signal.SIGSTOP):
        service.missed += 1
        return
    pid = worker.pid
    service.stopped.add(worker.name)
    try:
        hit = service.note(ZOMBIE, worker.name)
        await asyncio.sleep(step.lasts_s)
    finally:
        service.stopped.discard(worker.name)
        if worker.pid == pid:
            send(worker, signal.SIGCONT)
    service.over(hit)


async def node_kill(service: Service, step: Step) -> None:
    """SIGKILL of a broker node; after a while it comes back with its data."""
    node = _node(service, step)
    hit = service.note(NODE_KILL, f"node-{node.number}")
    node.kill()
    await _comes_back(service, node, step, hit)


async def node_term(service: Service, step: Step) -> None:
    """SIGTERM of a broker node: it hands over and goes; after a while it comes back."""
    node = _node(service, step)
    hit = service.note(NODE_TERM, f"node-{node.number}")
    await node.terminate()
    await _comes_back(service, node, step, hit)


async def node_stop(service: Service, step: Step) -> None:
    """SIGSTOP of a broker node: its connections stay open and silent, until SIGCONT."""
    node = _node(service, step)
    hit = service.note(NODE_STOP, f"node-{node.number}")
    node.pause()
    try:
        await asyncio.sleep(step.lasts_s)
    finally:
        node.resume()
    service.over(hit)
    await service.cluster.whole(WHOLE_S)


async def _comes_back(service: Service, node: Node, step: Step, hit: Hit | None) -> None:
    await asyncio.sleep(step.lasts_s)
    await node.start()
    service.over(hit)
    # Never two nodes at once: the next fault waits until this one has caught up.
    await service.cluster.whole(WHOLE_S)


def _age_s(worker: Worker) -> float | None:
    try:
        return round(time.time() - psutil.Process(worker.pid).create_time(), 1)
    except psutil.NoSuchProcess:
        return None


def _node(service: Service, step: Step) -> Node:
    nodes = {str(node.number): node for node in service.cluster.nodes}
    return nodes[step.pick(list(nodes)) or "1"]


FAULTS: Mapping[str, Fault] = {
    KILL: kill,
    KILL_MODEL: kill_model,
    ZOMBIE: zombie,
    NODE_KILL: node_kill,
    NODE_TERM: node_term,
    NODE_STOP: node_stop,
}
