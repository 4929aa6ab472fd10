"""The model host against real children that crash, hang, print, leak and answer late."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import structlog

from stream_worker import metrics
from stream_worker.errors import Exit, OutageError, Reason, RecordFault, TransientFault, UserError
from stream_worker.models.answer import NOT_FINITE
from stream_worker.models.child import LARGE_BYTES
from stream_worker.models.host import ModelHost
from stream_worker.models.keeper import YOUNG, Backoff, ModelLoadError, State
from stream_worker.models.protocol import ModelFault, ProtocolError
from stream_worker.models.scratch import SHARED_MEMORY

ROOT = Path(__file__).parents[2]
MODELS = "tests.integration.staged_models"

MakeHost = Callable[..., ModelHost]


@pytest.fixture
async def make_host() -> AsyncIterator[MakeHost]:
    """Hosts of staged models; whatever the test did, none of their processes outlives it."""
    hosts: list[ModelHost] = []

    def make(model: str = "Echo", **settings: Any) -> ModelHost:
        settings.setdefault("env", {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"})
        settings.setdefault("load_timeout_s", 60.0)
        settings.setdefault("task_timeout_s", 60.0)
        host = ModelHost(name="staged", model=f"{MODELS}:{model}", **settings)
        hosts.append(host)
        return host

    yield make
    for host in hosts:
        await host.stop()


async def _until(condition: Callable[[], Any]) -> None:
    """Wait for what no event tells of; pytest's own time limit is the deadline."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.01)


def _gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


async def test_a_task_comes_back_with_its_payload_and_the_model_says_what_it_is(make_host: MakeHost) -> None:
    host = make_host(options={"version": "1.2"})
    assert host.state is State.DEAD
    async with host:
        result = await host.infer({"echo": [1, "zwei", None]}, b"\x00\xff" * 100_000)
        assert result.header == {"echo": [1, "zwei", None]}
        assert result.payload == b"\x00\xff" * 100_000
        assert result.generation == 1
        assert host.info == {"model": "echo", "version": "1.2"}
        assert set(host.load_times) == {"load_s", "warm_up_s"}
        assert host.state is State.READY
        assert host.rss_bytes > 0
        pid = host.pid
    assert pid is not None
    assert _gone(pid)
    assert host.state is State.DEAD


def _bodies() -> set[Path]:
    """Folders for large answers, of whoever runs here."""
    return set(Path(SHARED_MEMORY).glob("stream-worker-bodies-*"))


async def test_a_large_answer_goes_by_shared_memory_and_leaves_nothing_there(make_host: MakeHost) -> None:
    before, large = _bodies(), os.urandom(3 * LARGE_BYTES)
    async with make_host() as host:
        answers = await asyncio.gather(*(host.infer({"echo": n}, large + bytes([n])) for n in range(4)))
        (folder,) = _bodies() - before
        assert [file.name for file in folder.iterdir()] == [".owner"]
    assert [(one.header["echo"], one.payload) for one in answers] == [(n, large + bytes([n])) for n in range(4)]
    assert _bodies() <= before


async def test_an_answer_that_names_a_file_that_is_not_there_costs_its_child(make_host: MakeHost) -> None:
    async with make_host() as host:
        answer = {"result": {}, "body_later": True}
        body = {"type": "BODY", "result": {"body_file": "1", "body_bytes": 9}}
        with pytest.raises(TransientFault, match="can't be opened") as fault:
            await host.infer({"forge": [answer, body]})
        assert fault.value.reason is Reason.MODEL_CRASHED
        assert (await host.infer({"echo": 1})).generation == 2


async def test_a_body_that_no_answer_has_spoken_of_costs_its_child(make_host: MakeHost) -> None:
    async with make_host() as host:
        for name in (1, 99, [1], None):
            with pytest.raises(TransientFault, match="no answer has spoken of"):
                await host.infer({"forge": {"type": "BODY", "id": name, "result": {}}, "sleep": 60})
        assert (await host.infer({"echo": 1})).header["echo"] == 1


async def test_a_body_that_is_made_later_keeps_nobody_waiting(make_host: MakeHost) -> None:
    async with make_host(model="Prepares") as host:
        slow = asyncio.create_task(host.infer({"later": {"sleep": 1.0}}))
        await asyncio.sleep(0)  # it is the first to ask
        next_one = await host.infer({"echo": 2})
        assert not slow.done()
        first = await slow
        assert (first.payload, first.generation) == (b"made later", 1)
        assert first.body_s >= 1.0
        assert next_one.started_at < first.started_at + 0.5
        assert next_one.body_s == 0.0


async def test_a_large_body_without_room_in_shared_memory_comes_by_the_pipe(make_host: MakeHost) -> None:
    before = _bodies()
    async with make_host(model="Prepares") as host:
        (folder,) = _bodies() - before
        (folder / "1").mkdir()  # where the first body would lie
        assert (await host.infer({"later": {"leave_much": 3 * LARGE_BYTES}})).payload == b"x" * 3 * LARGE_BYTES


@pytest.mark.parametrize(
    ("later", "said"),
    [
        ({"fault": ["bad_geometry", "no points"]}, "no points"),
        ({"divide_by_zero": True}, "ZeroDivisionError"),
        ({"leave_text": True}, "must be bytes"),
    ],
)
async def test_a_body_that_fails_costs_its_own_task_alone(make_host: MakeHost, later: Any, said: str) -> None:
    async with make_host(model="Prepares") as host:
        failing, fine = host.infer({"later": later}), host.infer({"echo": 2})
        fault, answer = await asyncio.gather(failing, fine, return_exceptions=True)
        assert isinstance(fault, RecordFault)
        assert said in str(fault)
        assert not isinstance(answer, BaseException)
        assert answer.generation == 1


async def test_a_body_that_never_comes_is_waited_for_as_long_as_a_task(make_host: MakeHost) -> None:
    async with make_host(model="Prepares") as host:
        with pytest.raises(TransientFault) as fault:
            await host.infer({"later": {"sleep": 60}}, timeout_s=1.0)
        assert fault.value.reason is Reason.MODEL_TIMEOUT
        assert (await host.infer({"echo": 1})).generation == 2


async def test_a_child_that_dies_with_a_body_to_leave(make_host: MakeHost) -> None:
    async with make_host(model="Prepares") as host:
        with pytest.raises(TransientFault) as fault:
            await host.infer({"later": {"crash": True}})
        assert fault.value.reason is Reason.MODEL_CRASHED
        assert (await host.infer({"echo": 1})).generation == 2


async def test_a_child_that_is_recycled_leaves_its_last_body_first(make_host: MakeHost) -> None:
    async with make_host(model="Prepares", rss_limit_bytes=1) as host:
        first = await host.infer({"later": {"sleep": 0.5}})
        assert (first.payload, first.generation) == (b"made later", 1)
        assert (await host.infer({"echo": 1})).generation == 2


async def test_the_next_task_is_prepared_while_the_model_works(make_host: MakeHost) -> None:
    async with make_host(model="Prepares") as host:
        tasks = [host.infer({"echo": n, "sleep": 0.5}, bytes([n])) for n in range(4)]
        answers = await asyncio.gather(*tasks)
    assert [one.header["echo"] for one in answers] == list(range(4))
    assert [one.payload for one in answers] == [bytes([n]) for n in range(4)]
    for before, after in itertools.pairwise(answers):
        assert after.header["prepared_to"] < before.started_at + before.busy_s < after.started_at + 0.1


async def test_what_is_wrong_with_a_task_that_is_prepared_is_its_own_fault(make_host: MakeHost) -> None:
    async with make_host(model="Prepares") as host:
        tasks = [
            host.infer({"echo": 1, "sleep": 0.3}),
            host.infer({"prepare": {"fault": ["empty_mask", "nothing there"]}}),
            host.infer({"echo": 3}),
        ]
        first, fault, third = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(fault, RecordFault)
    assert fault.reason is Reason.EMPTY_MASK
    assert not isinstance(first, BaseException)
    assert not isinstance(third, BaseException)
    assert (first.header["echo"], third.header["echo"], third.generation) == (1, 3, 1)


async def test_a_prepared_task_that_nobody_wants_any_more_is_not_done(make_host: MakeHost) -> None:
    async with make_host(model="Prepares") as host:
        running = asyncio.create_task(host.infer({"sleep": 0.5}))
        await _until(lambda: host.state is State.BUSY)
        unwanted = asyncio.create_task(host.infer({"echo": "unwanted"}))
        await asyncio.sleep(0.2)
        unwanted.cancel()
        last = asyncio.create_task(host.infer({"count_tasks": True}))
        await running
        assert (await last).header["count_tasks"] == 1


async def test_a_child_that_dies_takes_nothing_prepared_with_it(make_host: MakeHost) -> None:
    async with make_host(model="Prepares") as host:
        doomed, prepared = host.infer({"sleep": 0.3, "crash": True}), host.infer({"echo": 2}, b"two")
        fault, answer = await asyncio.gather(doomed, prepared, return_exceptions=True)
        assert isinstance(fault, TransientFault)
        assert not isinstance(answer, BaseException)
        assert (answer.header["echo"], answer.payload, answer.generation) == (2, b"two", 2)


async def test_a_task_that_kills_in_its_preparation_is_blamed_itself_at_its_next_try(make_host: MakeHost) -> None:
    """The first death is laid on the task that was in hand. After it nothing is prepared beside another for a while."""
    killer = {"prepare": {"crash": True}}
    async with make_host(model="Prepares") as host:
        for attempt in range(3):
            innocent, guilty = await asyncio.gather(
                host.infer({"sleep": 0.5}), host.infer(killer), return_exceptions=True
            )
            assert isinstance(guilty, TransientFault)
            assert isinstance(innocent, TransientFault) == (attempt == 0)


async def test_a_preparation_that_hangs_has_the_time_of_its_own_task(make_host: MakeHost) -> None:
    async with make_host(model="Prepares") as host:
        first, hung, last = await asyncio.gather(
            host.infer({"echo": 1, "sleep": 0.3}),
            host.infer({"prepare": {"sleep": 60}}, timeout_s=1.0),
            host.infer({"echo": 3}),
            return_exceptions=True,
        )
    assert isinstance(hung, TransientFault)
    assert hung.reason is Reason.MODEL_TIMEOUT
    assert not isinstance(first, BaseException)
    assert not isinstance(last, BaseException)
    assert (first.generation, last.generation) == (1, 2)


async def test_tasks_queue_in_order_and_one_runs_at_a_time(make_host: MakeHost) -> None:
    async with make_host() as host:
        results = await asyncio.gather(*(host.infer({"count_tasks": True}) for _ in range(20)))
        assert [result.header["count_tasks"] for result in results] == list(range(20))


async def test_waiting_for_a_turn_does_not_count_against_the_deadline(make_host: MakeHost) -> None:
    async with make_host() as host:
        results = await asyncio.gather(*(host.infer({"sleep": 0.4}, timeout_s=3.0) for _ in range(10)))
        assert {result.generation for result in results} == {1}


async def test_a_child_killed_in_a_task_is_replaced_and_the_next_task_is_done(make_host: MakeHost) -> None:
    async with make_host() as host:
        first = host.pid
        assert first is not None
        work = asyncio.create_task(host.infer({"sleep": 60}))
        await _until(lambda: host.state is State.BUSY)
        os.kill(first, signal.SIGKILL)
        with pytest.raises(TransientFault, match="SIGKILL") as fault:
            await work
        assert fault.value.reason is Reason.MODEL_CRASHED
        result = await host.infer({"echo": "again"})
        assert (result.header["echo"], result.generation) == ("again", 2)
        assert (host.counters.crashes, host.counters.restarts) == (1, 1)


async def test_a_child_killed_while_idle_is_replaced_before_it_is_needed(make_host: MakeHost) -> None:
    async with make_host() as host:
        first = host.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        await _until(lambda: host.state is State.READY and host.pid != first)
        assert (await host.infer({"echo": 1})).generation == 2


@pytest.mark.parametrize("how", ["hang_holding_the_gil", "stop_itself", "hang_in_python"])
async def test_a_hang_is_killed_at_its_deadline_and_leaves_no_process(make_host: MakeHost, how: str) -> None:
    async with make_host(heartbeat_s=0.05) as host:
        first = host.pid
        assert first is not None
        with pytest.raises(TransientFault, match="did not answer within 1 s") as fault:
            await host.infer({how: True}, timeout_s=1.0)
        assert fault.value.reason is Reason.MODEL_TIMEOUT
        assert _gone(first)
        assert (await host.infer({"echo": 1})).generation == 2
        assert host.counters.timeouts == 1


async def test_the_log_shows_where_a_model_hung(make_host: MakeHost) -> None:
    async with make_host() as host:
        with structlog.testing.capture_logs() as logs, pytest.raises(TransientFault):
            await host.infer({"hang_in_python": True}, timeout_s=1.0)
        assert any("hang_in_python" in entry.get("line", "") for entry in logs)


async def test_a_fault_and_an_error_are_the_tasks_own_and_the_child_goes_on(make_host: MakeHost) -> None:
    async with make_host(fault_reason=Reason.RECONSTRUCT_FAILED) as host:
        with pytest.raises(RecordFault, match="the mask is empty") as known:
            await host.infer({"fault": ["empty_mask", "the mask is empty"]})
        assert known.value.reason is Reason.EMPTY_MASK
        assert not isinstance(known.value, TransientFault)
        with pytest.raises(RecordFault, match="too_odd: it is odd") as unknown:
            await host.infer({"fault": ["too_odd", "it is odd"]})
        assert unknown.value.reason is Reason.RECONSTRUCT_FAILED
        with pytest.raises(TransientFault, match="ZeroDivisionError: division by zero"):
            await host.infer({"divide_by_zero": True})
        assert (await host.infer({"echo": 1})).generation == 1


async def test_a_model_that_runs_out_of_gpu_memory_is_recycled_unless_it_is_young(make_host: MakeHost) -> None:
    async def run_out() -> None:
        with pytest.raises(TransientFault, match="cuda_oom") as oom:
            await host.infer({"run_out_of_gpu_memory": True})
        assert oom.value.reason is Reason.RECONSTRUCT_FAILED

    async with make_host(fault_reason=Reason.RECONSTRUCT_FAILED) as host:
        for _ in range(YOUNG):
            await run_out()
            assert (host.generation, host.counters.recycles) == (1, 0)
        await run_out()
        await run_out()
        assert (await host.infer({"echo": 1})).generation == 2
        assert host.counters.recycles == 1


async def test_an_error_that_poisons_the_process_recycles_it(make_host: MakeHost) -> None:
    async with make_host() as host:
        with pytest.raises(TransientFault, match="CUDA error"):
            await host.infer({"poison": True})
        assert (await host.infer({"echo": 1})).generation == 2
        assert host.counters.recycles == 1


@pytest.mark.parametrize(
    ("act", "reason"),
    [
        ("answer_nan", Reason.BAD_GEOMETRY),
        ("answer_too_much", Reason.RECONSTRUCT_FAILED),
        ("answer_text", Reason.RECONSTRUCT_FAILED),
    ],
)
async def test_an_answer_that_cannot_be_sent_is_a_fault_of_its_task(
    make_host: MakeHost, act: str, reason: Reason
) -> None:
    """The model computed it, and would do so again: no retry, and the child goes on."""
    async with make_host(reasons={NOT_FINITE: Reason.BAD_GEOMETRY}) as host:
        with pytest.raises(RecordFault) as fault:
            await host.infer({act: True})
        assert (fault.value.reason, type(fault.value)) == (reason, RecordFault)
        assert (await host.infer({"echo": 1})).generation == 1


async def test_a_task_that_cannot_be_sent_leaves_the_child_alone(make_host: MakeHost) -> None:
    async with make_host() as host:
        with pytest.raises(ProtocolError):
            await host.infer({"echo": float("nan")})
        assert (await host.infer({"echo": 1})).generation == 1


async def test_what_a_library_prints_goes_to_the_log(make_host: MakeHost) -> None:
    with structlog.testing.capture_logs() as logs:
        async with make_host() as host:
            assert (await host.infer({"print": True, "echo": 5})).header["echo"] == 5
    lines = [entry["line"] for entry in logs if entry["event"] == "model says"]
    assert "python print" in lines
    assert "from a C library" in lines
    assert "last state of the bar" in lines
    assert "not \ufffd utf-8" in lines
    assert max(map(len, lines)) <= 4096


async def test_junk_on_the_pipe_ends_the_child_that_sent_it(make_host: MakeHost) -> None:
    async with make_host() as host:
        with pytest.raises(TransientFault, match="not a frame") as fault:
            await host.infer({"write_to_the_pipe": "Downloading 100%\n" * 10})
        assert fault.value.reason is Reason.MODEL_CRASHED
        assert (await host.infer({"echo": 1})).generation == 2


@pytest.mark.parametrize("header", [{"result": []}, {"fault": 7}, {"error": "x"}, {"busy_s": None}, {}])
async def test_an_answer_of_the_wrong_form_ends_the_child(make_host: MakeHost, header: dict[str, Any]) -> None:
    async with make_host() as host:
        with pytest.raises(TransientFault, match="no answer"):
            await host.infer({"forge": header})
        assert (await host.infer({"echo": 1})).generation == 2


async def test_a_closed_pipe_ends_the_child_that_closed_it(make_host: MakeHost) -> None:
    async with make_host() as host:
        with pytest.raises(TransientFault) as fault:
            await host.infer({"close_the_pipe": True})
        assert fault.value.reason is Reason.MODEL_CRASHED
        assert (await host.infer({"echo": 1})).generation == 2


async def test_a_segmentation_fault_is_a_crash_and_the_log_has_its_stack(make_host: MakeHost) -> None:
    async with make_host() as host:
        with structlog.testing.capture_logs() as logs, pytest.raises(TransientFault, match="SIGSEGV"):
            await host.infer({"crash": True})
        assert any("in crash" in entry.get("line", "") for entry in logs)


async def test_the_answer_of_another_task_is_not_taken(make_host: MakeHost) -> None:
    async with make_host() as host:
        result = await host.infer({"forge": {"id": -1, "result": {"echo": "wrong"}}, "echo": "right"})
        assert result.header["echo"] == "right"
        result = await host.infer({"forge": {"id": 1, "result": {"echo": "late"}}, "echo": "right"})
        assert result.header["echo"] == "right"


async def test_the_answer_of_another_generation_ends_the_child(make_host: MakeHost) -> None:
    async with make_host() as host:
        with pytest.raises(TransientFault, match="generation 99"):
            await host.infer({"forge": {"generation": 99, "result": {"echo": "wrong"}}, "sleep": 60})
        assert (await host.infer({"echo": 1})).generation == 2


async def test_a_cancelled_callers_answer_goes_to_nobody(make_host: MakeHost) -> None:
    async with make_host() as host:
        abandoned = asyncio.create_task(host.infer({"sleep": 0.5, "echo": "abandoned"}))
        await _until(lambda: host.state is State.BUSY)
        abandoned.cancel()
        with pytest.raises(asyncio.CancelledError):
            await abandoned
        assert host.state is State.BUSY
        result = await host.infer({"echo": "mine"})
        assert (result.header["echo"], result.generation) == ("mine", 1)


async def test_a_cancelled_callers_hang_is_killed_all_the_same(make_host: MakeHost) -> None:
    async with make_host() as host:
        abandoned = asyncio.create_task(host.infer({"hang_holding_the_gil": True}, timeout_s=1.0))
        await _until(lambda: host.state is State.BUSY)
        abandoned.cancel()
        assert (await host.infer({"echo": "mine"})).generation == 2


async def test_a_caller_cancelled_in_the_queue_costs_the_model_nothing(make_host: MakeHost) -> None:
    async with make_host() as host:
        running = asyncio.create_task(host.infer({"sleep": 0.3}))
        await _until(lambda: host.state is State.BUSY)
        waiting = asyncio.create_task(host.infer({"sleep": 60}))
        await asyncio.sleep(0)
        waiting.cancel()
        await running
        assert (await host.infer({"count_tasks": True})).header["count_tasks"] == 1  # one task before: the running one


async def test_a_child_that_grows_is_recycled_between_tasks(make_host: MakeHost) -> None:
    async with make_host(rss_limit_bytes=200 * 2**20) as host:
        assert (await host.infer({"grow_mb": 1})).generation == 1
        assert (await host.infer({"grow_mb": 300})).generation == 1
        assert (await host.infer({"echo": 1})).generation == 2
        assert (host.counters.recycles, host.counters.crashes) == (1, 0)


async def test_a_models_own_processes_end_with_it(make_host: MakeHost) -> None:
    async with make_host() as host:
        grandchild = (await host.infer({"start_a_process": True})).header["start_a_process"]
        assert not _gone(grandchild)
        with pytest.raises(TransientFault):
            await host.infer({"hang_in_python": True}, timeout_s=0.5)
        await _until(lambda: _gone(grandchild))


async def test_temporary_files_end_with_the_child(make_host: MakeHost) -> None:
    async with make_host() as host:
        path = (await host.infer({"temporary_file": True})).header["temporary_file"]
        assert Path(path).exists()
        with pytest.raises(TransientFault):
            await host.infer({"hang_in_python": True}, timeout_s=0.5)
        assert not Path(path).exists()


async def test_a_fault_in_loading_is_one_line_and_the_host_stays_usable(make_host: MakeHost, tmp_path: Path) -> None:
    weights = tmp_path / "weights"
    host = make_host("NeedsWeights", options={"weights": str(weights)})
    with pytest.raises(UserError, match="no weights at") as error:
        await host.start()
    assert error.value.exit_code is Exit.WEIGHTS
    assert "\n" not in str(error.value)
    assert isinstance(error.value.__cause__, ModelFault)
    assert error.value.__cause__.code == "weights_missing"
    assert host.state is State.DEAD
    with pytest.raises(OutageError, match="no weights at"):  # not the record's fault
        await host.infer({"echo": 1})
    weights.touch()
    assert (await host.infer({"echo": 1})).header == {"echo": 1}


@pytest.mark.parametrize(
    ("model", "settings", "complaint"),
    [
        ("NotThere", {}, "has no class 'NotThere'"),
        ("Echo", {"python": "/nowhere/python"}, "can't start /nowhere/python"),
    ],
)
async def test_what_is_misnamed_is_the_users_to_mend(
    make_host: MakeHost, model: str, settings: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(UserError, match=complaint):
        await make_host(model, **settings).start()


async def test_a_missing_library_is_named(make_host: MakeHost) -> None:
    host = make_host()
    host.model = "tests.integration.no_such_module:Model"
    with pytest.raises(UserError, match=r"No module named .*no_such_module"):
        await host.start()


async def test_a_crash_while_loading_is_told_with_the_last_line(make_host: MakeHost) -> None:
    with pytest.raises(ModelLoadError, match="exited with code 7: libcuda is on fire") as error:
        await make_host("ExitsInLoad").start()
    assert error.value.code == "load_crashed"


async def test_an_unforeseen_error_in_loading_is_told(make_host: MakeHost) -> None:
    with pytest.raises(ModelLoadError, match="RuntimeError: driver too old") as error:
        await make_host("RaisesInLoad").start()
    assert error.value.code == "load_failed"


async def test_loading_has_a_deadline(make_host: MakeHost) -> None:
    before = {child.pid for child in psutil.Process().children()}  # the session's servers, where they run
    host = make_host("HangsInLoad", load_timeout_s=1.5)
    with pytest.raises(ModelLoadError, match="not loaded within") as error:
        await host.start()
    assert error.value.code == "load_timeout"
    assert not [c for c in psutil.Process().children() if c.pid not in before and not _gone(c.pid)]


async def test_restarts_back_off(make_host: MakeHost) -> None:
    host = make_host("ExitsInLoad", backoff=Backoff(first_s=3600.0, cap_s=3600.0))
    for _ in range(2):  # the start, and a first restart at once
        with pytest.raises(ModelLoadError, match="exited with code 7"):
            await host.infer({"echo": 1})
    waiting = asyncio.create_task(host.infer({"echo": 1}))
    await _until(lambda: host.state is State.STARTING)
    assert (host.counters.failed_starts, host.generation) == (2, 2)
    await host.stop()
    with pytest.raises(OutageError, match="stopped"):
        await waiting
    assert host.generation == 2


async def test_deaths_in_tasks_cost_no_wait(make_host: MakeHost) -> None:
    """Records may be poison one after the other: the back-off is for starts that fail, not for them."""
    async with make_host(backoff=Backoff(first_s=3600.0, cap_s=3600.0)) as host:
        for _ in range(3):
            with pytest.raises(TransientFault):
                await host.infer({"crash": True})
        assert (await host.infer({"echo": 1})).generation == 4


async def test_what_is_no_init_ends_the_child(make_host: MakeHost) -> None:
    with pytest.raises(ModelLoadError, match="no INIT") as error:
        await make_host("ForgesInit").start()
    assert error.value.code == "load_crashed"


async def test_the_metrics_count_starts_and_why_children_end(make_host: MakeHost) -> None:
    def ends(cause: str) -> float:
        return (
            metrics.REGISTRY.get_sample_value("stream_worker_model_ends_total", {"model": "staged", "cause": cause})
            or 0.0
        )

    def starts() -> float:
        return metrics.REGISTRY.get_sample_value("stream_worker_model_starts_total", {"model": "staged"}) or 0.0

    causes = ("crash", "timeout", "recycle", "failed_start")
    before, started = {cause: ends(cause) for cause in causes}, starts()
    async with make_host() as host:
        for act in ({"crash": True}, {"hang_in_python": True}, {"poison": True}):
            with pytest.raises(TransientFault):
                await host.infer(act, timeout_s=1.0)
        await host.infer({"echo": 1})
    with pytest.raises(ModelLoadError):
        await make_host("ExitsInLoad").start()
    assert {cause: ends(cause) - before[cause] for cause in causes} == dict.fromkeys(causes, 1)
    assert starts() - started == 4


def _staged(name: str, **labels: str) -> float | None:
    return metrics.REGISTRY.get_sample_value(f"stream_worker_model_{name}", {"model": "staged", **labels})


@pytest.mark.parametrize(("said", "held"), [(5, 5), (-1, 0), (1.5, 0), (10**400, 0), (True, 0), ("much", 0), (None, 0)])
async def test_the_metrics_tell_of_a_childs_gpu_what_it_says_and_no_nonsense(
    make_host: MakeHost, said: Any, held: int
) -> None:
    async with make_host("OnACard", options={"held": said}, heartbeat_s=0.05):
        await _until(lambda: _staged("gpu_memory_limit_bytes"))
        assert _staged("gpu_memory_limit_bytes") == 2**30
        assert _staged("gpu_memory_bytes") == held
    assert _staged("gpu_memory_limit_bytes") == 0, "it holds nothing any more"


async def test_the_metrics_tell_what_the_child_does_and_how_long_its_tasks_take(make_host: MakeHost) -> None:
    host = make_host()
    tasks, seconds = _staged("task_seconds_count") or 0.0, _staged("task_seconds_sum") or 0.0
    assert _staged("state", state="dead") == 1
    async with host:
        assert _staged("state", state="ready") == 1
        assert _staged("memory_bytes") == pytest.approx(host.rss_bytes, rel=0.5)
        work = asyncio.create_task(host.infer({"sleep": 0.2}))
        await _until(lambda: _staged("state", state="busy"))
        await work
        with pytest.raises(TransientFault):
            await host.infer({"hang_in_python": True}, timeout_s=0.5)
    assert _staged("task_seconds_count") == tasks + 2
    assert (_staged("task_seconds_sum") or 0.0) - seconds >= 0.7, "one that hung had the model, too"
    assert [_staged("state", state=state.value) for state in State] == [0, 0, 0, 0, 1]


async def test_stopping_answers_everyone_who_waits(make_host: MakeHost) -> None:
    host = make_host(stop_grace_s=0.2)
    await host.start()
    waiting = [asyncio.create_task(host.infer({"hang_holding_the_gil": True})) for _ in range(3)]
    await _until(lambda: host.state is State.BUSY)
    pid = host.pid
    assert pid is not None
    await host.stop()
    for error in await asyncio.gather(*waiting, return_exceptions=True):
        assert isinstance(error, OutageError)
    assert _gone(pid)


async def test_stopping_while_loading_ends_the_child(make_host: MakeHost) -> None:
    before = {child.pid for child in psutil.Process().children()}
    host = make_host("HangsInLoad")
    waiting = asyncio.create_task(host.infer({"echo": 1}))
    await _until(lambda: {child.pid for child in psutil.Process().children()} - before)
    await host.stop()
    with pytest.raises(OutageError, match="stopped"):
        await waiting
    assert not [c for c in psutil.Process().children() if c.pid not in before and not _gone(c.pid)]


async def test_a_child_dies_with_its_parent_even_when_it_is_busy() -> None:
    script = """
import asyncio, json, sys
from stream_worker.models.host import ModelHost
async def main():
    host = ModelHost("staged", "tests.integration.staged_models:Echo", env={"PYTHONPATH": "."})
    await host.start()
    work = asyncio.create_task(host.infer({"hang_holding_the_gil": True}))
    while host._process.heartbeat.get("state") != "busy":
        await asyncio.sleep(0.01)
    print(host.pid, file=sys.stderr, flush=True)
    await work
asyncio.run(main())
"""
    parent = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-c", script),
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        assert parent.stderr is not None
        line = b""
        while not line.strip().isdigit():
            line = await asyncio.wait_for(parent.stderr.readline(), 60)
            assert line, "the parent ended"
        child = int(line)
        assert not _gone(child)
    finally:
        parent.kill()
        await parent.wait()
    await _until(lambda: _gone(child))


async def test_a_child_that_is_not_its_hosts_child_refuses_to_run() -> None:
    """The parent may have died between the fork and the prctl: then nobody would end the child."""
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "stream_worker.models.child", "--parent", "1", "--tasks-fd", "0", "--results-fd", "1"),
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    _, said = await asyncio.wait_for(child.communicate(), 60)
    assert child.returncode == 1
    assert b"not the host 1" in said


async def test_the_child_sees_nothing_of_the_services_secrets(
    make_host: MakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STREAM_WORKER_STORE__SECRET_KEY", "s3cret")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cret")
    async with make_host(env={"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "3"}) as host:
        environment = (await host.infer({"tell": True})).header["tell"]["environment"]
    assert "s3cret" not in json.dumps(environment)
    assert environment["CUDA_VISIBLE_DEVICES"] == "3"


async def test_limits_hold_in_the_child(make_host: MakeHost, tmp_path: Path) -> None:
    limits = {"as": 2**30, "nofile": 64, "fsize": 10_000, "cpu_per_task_s": 1, "no_new_privs": True}
    async with make_host(limits=limits) as host:
        with pytest.raises(TransientFault, match="MemoryError"):
            await host.infer({"grow_mb": 2000})
        with pytest.raises(TransientFault, match="OSError"):
            await host.infer({"write_file": str(tmp_path / "file")})
        for _ in range(3):  # a limit per task, not for the life of the process
            assert (await host.infer({"burn_cpu_s": 0.6})).generation == 1
        with pytest.raises(TransientFault, match="SIGXCPU"):
            await host.infer({"burn_cpu_s": 60})
        assert (await host.infer({"tell": True})).header["tell"]["status"]["NoNewPrivs"] == "1"


@pytest.mark.parametrize("version", ["3.10", "3.12", "3.13"])
async def test_another_interpreter_can_be_the_childs(make_host: MakeHost, version: str, tmp_path: Path) -> None:
    """Without a single package of the service's: as where a model pins versions of its own."""
    interpreter = _interpreter(version)
    if interpreter is None:
        pytest.skip(f"no Python {version} on this machine")
    async with make_host(python=interpreter) as host:
        answer = (await host.infer({"tell": True})).header["tell"]
    assert answer["version"].startswith(version)
    assert not any("site-packages" in entry and "/.venv/" in entry for entry in answer["path"])


def _interpreter(version: str) -> str | None:
    candidates = [f"/usr/bin/python{version}", *map(str, Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))]
    for candidate in candidates:
        try:
            subprocess.run([candidate, "-c", "import json, ctypes"], check=True, capture_output=True, timeout=60)
        except (OSError, subprocess.SubprocessError):
            continue
        return candidate
    return None
