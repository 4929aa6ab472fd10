"""The guards: where each one is in the code, what the code looks like without it, and which tests should notice."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Cut:
    """Text of a file, which stands there once, and what takes its place."""

    file: str
    old: str
    new: str


@dataclass(frozen=True)
class Guard:
    """Something that must not be missing."""

    name: str
    why: str
    cuts: tuple[Cut, ...]
    tests: tuple[str, ...]


TRANSACTION = "stream_worker/transaction.py"
CHANGELOG = "stream_worker/aggregator/changelog.py"
LANE = "stream_worker/lane.py"
STAGE_TESTS = "tests/integration/test_stage.py"

GUARDS = (
    Guard(
        "the await of the send futures",
        "a produce that fails unawaited is lost, while its transaction and the offsets commit",
        (Cut(TRANSACTION, "                await asyncio.gather(*sent)\n", ""),),
        (f"{STAGE_TESTS}::test_an_output_that_the_broker_refuses_moves_no_offset_and_blames_no_record",),
    ),
    Guard(
        "the gate",
        "records that were fetched before the former owner was fenced are not to be worked on",
        (Cut(LANE, "        if not self._open:\n            return 0\n", ""),),
        (f"{STAGE_TESTS}::test_records_that_come_before_the_gate_is_open_are_not_taken",),
    ),
    Guard(
        "the transactional id of each partition",
        "who starts a producer with a lane's id fences the former owner, and ends its transaction",
        (
            Cut(
                LANE,
                'f"{kafka.prefix}{group.name}.{group.topics[0]}.{number}"',
                'f"{kafka.prefix}{group.name}.{id(self)}"',
            ),
        ),
        (
            f"{STAGE_TESTS}::test_a_new_owner_of_the_id_fences_the_old_one",
            f"{STAGE_TESTS}::test_nothing_of_an_unfinished_transaction_is_seen",
        ),
    ),
    Guard(
        "the offsets in the transaction",
        "outputs and the place to go on from are committed together, or not at all",
        (
            Cut(
                TRANSACTION,
                "                    await producer.send_offsets_to_transaction(dict(offsets), self._group)\n",
                "                    pass\n",
            ),
        ),
        (f"{STAGE_TESTS}::test_a_restart_goes_on_where_the_offsets_are",),
    ),
    Guard(
        "the seek to the committed offsets",
        "after a lost producer the records in hand are done again, though the consumer's position is past them",
        (Cut(LANE, "            self._consumer.seek(source, offset)\n", ""),),
        (f"{STAGE_TESTS}::test_what_a_lost_producer_did_not_commit_is_done_again",),
    ),
    Guard(
        "the mark of an owner",
        "an owner that dies with its first record must not look like one that never had it",
        (Cut(LANE, "        await self._write([], self._custody)\n        self._owned", "        self._owned"),),
        (f"{STAGE_TESTS}::test_an_owner_that_died_is_known_and_one_that_left_is_not",),
    ),
    Guard(
        "the child's clock",
        "a model that hangs is killed at its deadline, though it says nothing",
        (Cut("stream_worker/models/host.py", "asyncio.timeout(timeout_s)", "asyncio.timeout(None)"),),
        # -x: after a second hang, Python 3.11 can't parse the source that pytest wants to show (SystemError in ast).
        ("tests/integration/test_model_host.py", "-k", "hang_is_killed_at_its_deadline", "--timeout=60", "-x"),
    ),
    Guard(
        "the sha256 of a blob that is read",
        "bytes that are not what was referenced are never worked on",
        (
            Cut(
                "stream_worker/store/blobs.py",
                "return len(data) == ref.size and hashlib.sha256(data).hexdigest() == ref.sha256",
                "return len(data) == ref.size",
            ),
        ),
        ("tests/integration/test_store.py", "-k", "never_handed_out"),
    ),
    Guard(
        "the new producer after errors and unanswered requests",
        "a late EndTxn or late offsets must not touch the next transaction (KAFKA-17754)",
        (Cut(TRANSACTION, "        return self._unanswered > 0\n", "        return False\n"),),
        ("tests/faults/test_late_end_txn.py", "-k", "late_end_does_not or late_offsets_do_not"),
    ),
    Guard(
        "the barrier of a restore",
        "a leader that was stopped, and does not know that it leads no more, ends too early",
        (
            Cut(
                CHANGELOG,
                "            await producer.start()\n"
                "            sent = await producer.send_and_wait(topic, None, BARRIER_KEY, partition=lane)\n"
                "        return int(sent.offset)\n",
                "            limit = request_timeout_ms\n"
                "            consumer = AIOKafkaConsumer(bootstrap_servers=servers, request_timeout_ms=limit)\n"
                "            await consumer.start()\n"
                "            [end] = (await consumer.end_offsets([TopicPartition(topic, lane)])).values()\n"
                "            await consumer.stop()\n"
                "        return int(end) - 1\n",
            ),
        ),
        ("tests/faults/test_stale_leader.py",),
    ),
    Guard(
        "the error of a whole answer about offsets",
        "a node that is not the coordinator any more must not seem to say that nothing was ever committed",
        (Cut("stream_worker/committed.py", "    if code:\n", "    if False:\n"),),
        ("tests/unit/test_committed.py",),
    ),
    Guard(
        "the proof of the coordinator",
        "one that was stopped, and does not know that it is none any more, would take a lane back",
        (
            Cut(
                TRANSACTION,
                "        await producer.abort_transaction()\n        return found\n",
                "        return believed\n",
            ),
        ),
        ("tests/faults/test_stale_coordinator.py",),
    ),
    Guard(
        "the doubt about positions that a node does not have",
        "one that was stopped, and leads no more, must not send a lane back to the beginning of its topic",
        (Cut("stream_worker/stage.py", 'auto_offset_reset="none"', 'auto_offset_reset="earliest"'),),
        (f"{STAGE_TESTS}::test_a_position_that_a_node_does_not_have_is_no_reason_to_begin_again",),
    ),
    Guard(
        "the barriers around a lane that was away",
        "what is kept of it is not true any more where another owner has had it",
        (Cut("stream_worker/aggregator/kept.py", " if barrier == self._seals.get(lane, barrier) + 1 else None", ""),),
        ("tests/integration/test_changelog.py::test_a_state_is_not_kept_past_another_owner",),
    ),
    Guard(
        "the seal on what is committed",
        "a state with anything unwritten in it must not outlive its lane",
        (
            Cut(
                LANE, "        whole = opened and not self._queue and not self._unwritten\n", "        whole = opened\n"
            ),
        ),
        (f"{STAGE_TESTS}::test_what_a_rebalance_takes_away_is_sealed_where_all_of_it_is_committed",),
    ),
    Guard(
        "the order within a lane",
        "what the join made of a record is written down with it: one that ran ahead would be written last",
        (Cut(LANE, "            await work.before.wait()\n", ""),),
        (f"{STAGE_TESTS}::test_records_take_effect_in_their_order_also_where_some_are_tried_alone",),
    ),
    Guard(
        "the search for a server that answers",
        "one broker that stands still must not keep a worker from starting with the others",
        (Cut("stream_worker/bootstrap.py", "if len(servers) < 2:", "if servers:"),),
        ("tests/integration/test_bootstrap.py",),
    ),
    Guard(
        "the end of a record that kills its workers",
        "it must end in dead-letters, not in a loop",
        (Cut(LANE, "if before.alone >= self._settings.stage.worker_crashes:", "if before.alone < 0:"),),
        (f"{STAGE_TESTS}::test_a_record_that_was_alone_when_its_workers_died_is_given_up",),
    ),
    Guard(
        "the sign of life while there is no room",
        "work that takes longer than max.poll.interval.ms must not cost the worker its place in the group",
        (
            Cut(
                "stream_worker/stage.py",
                "        with self._consumer._subscription.fetch_context():\n            pass\n",
                "",
            ),
        ),
        ("tests/faults/test_long_object.py",),
    ),
    Guard(
        "the look at what a model made",
        "nothing with NaN, Inf or no points is ever published",
        (Cut("stream_worker/models/results.py", "count = ply.check(payload)", "count = geometry.gaussians"),),
        ("tests/unit/models/test_results.py",),
    ),
)
