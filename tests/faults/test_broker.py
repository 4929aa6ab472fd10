"""Nodes of a cluster of three die, leave or stand still in the middle of the work: every record once, nothing stuck.

One node may be away: the work must come to its end without it, and only then it comes back.
"""

from __future__ import annotations

import asyncio
import uuid

import pytest

from stream_worker import topics
from stream_worker.settings import Settings
from tests.faults.copying import Copying, brisk, require_once_each
from tests.integration.test_stage import read, send, values_of
from tests.servers.kafka_cluster import KafkaCluster
from tests.staging import running

COUNT = 120
WITHIN_S = 120.0
PAUSE_S = 20.0  # more than the session's 6 s and the transaction's 8 s of these settings

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
async def whole(cluster: KafkaCluster) -> KafkaCluster:
    """The module's cluster, mended from what the test before did to it."""
    await cluster.start()
    return cluster


@pytest.fixture
async def settings(whole: KafkaCluster) -> Settings:
    made = brisk(whole.bootstrap_servers, f"t{uuid.uuid4().hex[:10]}-", replicas=len(whole.nodes))
    await topics.create(made.kafka)
    return made


async def test_a_leader_that_is_killed(whole: KafkaCluster, settings: Settings) -> None:
    copying = Copying(COUNT)
    await send(settings, values_of(COUNT))
    leader = await whole.leader_of(settings.kafka.prefix + topics.COMPLETED, 0)
    async with running(copying, settings):
        await copying.half_way()
        leader.kill()
        copying.go_on()
        await read(settings, topics.COMPLETED, COUNT, WITHIN_S)
    await leader.start()
    await whole.whole()
    await require_once_each(settings, values_of(COUNT))


async def test_a_coordinator_of_transactions_that_is_killed(whole: KafkaCluster, settings: Settings) -> None:
    copying = Copying(COUNT)
    await send(settings, values_of(COUNT))
    coordinator = await whole.coordinator_of_transactions(f"{settings.kafka.prefix}echo.{topics.IMAGES}.0")
    async with running(copying, settings):
        await copying.half_way()
        coordinator.kill()
        copying.go_on()
        await read(settings, topics.COMPLETED, COUNT, WITHIN_S)
    await coordinator.start()
    await whole.whole()
    await require_once_each(settings, values_of(COUNT))


async def test_a_coordinator_of_the_group_that_leaves_in_order(whole: KafkaCluster, settings: Settings) -> None:
    copying = Copying(COUNT)
    await send(settings, values_of(COUNT))
    coordinator = await whole.coordinator_of_group(settings.kafka.prefix + copying.name)
    async with running(copying, settings):
        await copying.half_way()
        leaving = asyncio.create_task(coordinator.terminate())
        copying.go_on()
        await leaving
        await read(settings, topics.COMPLETED, COUNT, WITHIN_S)
    await coordinator.start()
    await whole.whole()
    await require_once_each(settings, values_of(COUNT))


async def test_a_leader_that_stands_still_and_wakes_up(whole: KafkaCluster, settings: Settings) -> None:
    copying = Copying(COUNT)
    await send(settings, values_of(COUNT))
    leader = await whole.leader_of(settings.kafka.prefix + topics.COMPLETED, 0)
    async with running(copying, settings):
        await copying.half_way()
        leader.pause()
        waking = asyncio.get_running_loop().time() + PAUSE_S
        copying.go_on()
        await read(settings, topics.COMPLETED, COUNT, WITHIN_S)
        await asyncio.sleep(waking - asyncio.get_running_loop().time())
        leader.resume()
        later = [f"later-{number}".encode() for number in range(COUNT)]
        await send(settings, later)
        await read(settings, topics.COMPLETED, 2 * COUNT, WITHIN_S)
    await whole.whole()
    await require_once_each(settings, [*values_of(COUNT), *later])


async def test_a_cluster_that_is_killed_as_a_whole_costs_time_and_nothing_else(
    whole: KafkaCluster, settings: Settings
) -> None:
    copying = Copying(COUNT)
    await send(settings, values_of(COUNT))
    async with running(copying, settings):
        await copying.half_way()
        whole.kill()
        copying.go_on()
        await whole.start()
        await read(settings, topics.COMPLETED, COUNT, WITHIN_S)
    await require_once_each(settings, values_of(COUNT))
