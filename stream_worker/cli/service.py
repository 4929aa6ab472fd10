"""Commands that run the service: all of it, one worker, the demo."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from stream_worker import telemetry
from stream_worker.cli import console
from stream_worker.local_default import connected
from stream_worker.settings import Settings

app = typer.Typer()


@app.command(epilog="Example: [bold]stream-worker up[/bold]")
def up(
    context: typer.Context,
    detectors: Annotated[int | None, typer.Option(min=0, help="Detectors; unset: one per GPU, or one.")] = None,
    reconstructors: Annotated[
        int | None, typer.Option(min=0, help="Reconstructors; unset: one per GPU, or one.")
    ] = None,
    aggregators: Annotated[int | None, typer.Option(min=0, help="Aggregators.")] = None,
    logs: Annotated[Path | None, typer.Option(help="Folder for a log file of each worker.")] = None,
) -> None:
    """Run the whole service here: a worker per GPU, and a private Kafka if no broker is named.

    Restarts what dies, with back-off. SIGTERM or Ctrl-C drains: work in hand is finished, then all ends.
    """
    settings: Settings = context.obj
    wishes = {"detectors": detectors, "reconstructors": reconstructors, "aggregators": aggregators}
    changed = settings.up.model_copy(update={name: count for name, count in wishes.items() if count is not None})
    telemetry.configure(settings.log, stage="up")
    console.run(_up(settings.model_copy(update={"up": changed}), logs))


async def _up(settings: Settings, logs: Path | None) -> None:
    from stream_worker.up import running

    me = asyncio.current_task()
    assert me is not None
    told: list[signal.Signals] = []

    def stop(number: signal.Signals) -> None:
        if not told:  # a second signal must not break the drain off: SIGKILL does
            told.append(number)
            me.cancel()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop, number)
    log = telemetry.get("up")
    try:
        async with running(settings, on_progress=log.info, log_dir=logs) as service:
            log.info("try: stream-worker publish URL, then stream-worker watch")
            await service.supervisor.failed()
    except asyncio.CancelledError:
        if not told:
            raise
        log.info("stopped")


def _worker(context: typer.Context, group: str, name: str | None) -> NoReturn:
    from stream_worker.workers import work

    raise typer.Exit(work(group, connected(context.obj), name))


_Name = Annotated[str | None, typer.Option(help="Static name of this worker, unique in the deployment.")]


@app.command(epilog="Example: [bold]CUDA_VISIBLE_DEVICES=0 stream-worker detect --name detector-0[/bold]")
def detect(context: typer.Context, name: _Name = None) -> None:
    """Run one detector: photos in, one object event per mask out."""
    _worker(context, "detector", name)


@app.command(epilog="Example: [bold]CUDA_VISIBLE_DEVICES=0 stream-worker reconstruct --name reconstructor-0[/bold]")
def reconstruct(context: typer.Context, name: _Name = None) -> None:
    """Run one reconstructor: masks in, 3D objects out."""
    _worker(context, "reconstructor", name)


@app.command(epilog="Example: [bold]stream-worker aggregate --name aggregator-0[/bold]")
def aggregate(context: typer.Context, name: _Name = None) -> None:
    """Run one aggregator: manifests and results in, completed images out."""
    _worker(context, "aggregator", name)


@app.command(epilog="Example: [bold]stream-worker demo --images ~/photos[/bold]")
def demo(
    context: typer.Context,
    images: Annotated[Path | None, typer.Option(help="Folder of photos; unset: rendered rooms.")] = None,
    out_dir: Annotated[Path, typer.Option("--out", help="Where the results go.")] = Path("demo-out"),
) -> None:
    """Photos in, 3D objects out: the whole service on this machine, with a report to look at."""
    from stream_worker.demo.run import demo as run_demo

    raise typer.Exit(run_demo(context.obj, images, out_dir, console.out))
