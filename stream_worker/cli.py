"""The door: `stream-worker`, one command for every thing that people do with the service."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections import Counter
from collections.abc import Coroutine
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, NoReturn

import orjson
import typer
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from stream_worker import telemetry
from stream_worker.errors import Exit, Reason, UserError
from stream_worker.local_default import connected, kafka_folder, with_broker
from stream_worker.settings import Settings, load, markdown, shown

if TYPE_CHECKING:
    from stream_worker.letters import Wanted

app = typer.Typer(
    name="stream-worker",
    help="Turns streams of photos into 3D objects: Kafka in, YOLOE-seg and SAM 3D on your GPUs, completed images out.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
kafka_app = typer.Typer(help="The private Kafka of this machine.", no_args_is_help=True)
topics_app = typer.Typer(help="The topics that the service needs.", no_args_is_help=True)
letters_app = typer.Typer(help="Records that no retry could mend.", no_args_is_help=True)
app.add_typer(kafka_app, name="kafka")
app.add_typer(letters_app, name="dead-letters")
app.add_typer(topics_app, name="topics")

out = Console()
err = Console(stderr=True)


@app.callback()
def _settings(
    context: typer.Context,
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", help="Settings file.", show_default="./stream-worker.toml, if there"),
    ] = None,
    broker: Annotated[str | None, typer.Option("--broker", "-b", help="host:port of Kafka; wins over all.")] = None,
) -> None:
    settings = load(config)
    telemetry.configure(settings.log)
    # What the client says of a broker that is away, we say in one line; the workers turn it on again.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    context.obj = with_broker(settings, broker) if broker else settings


def _run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(work)


# ---------------------------------------------------------------------- the service


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
    _run(_up(settings.model_copy(update={"up": changed}), logs))


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

    raise typer.Exit(run_demo(context.obj, images, out_dir, out))


# ---------------------------------------------------------------------- the ways to use it


@app.command(
    epilog="Example: [bold]stream-worker publish https://example.com/room.jpg --id room-1[/bold]\n\n"
    'A file has one event a line: [bold]{"url": "https://...", "image_id": "room-1", "metadata": {"order": 7}}[/bold]'
)
def publish(
    context: typer.Context,
    urls: Annotated[list[str] | None, typer.Argument(metavar="URL...", help="Photos to process.")] = None,
    file: Annotated[Path | None, typer.Option("--file", "-f", help="Events as JSON lines; - is stdin.")] = None,
    image_id: Annotated[str | None, typer.Option("--id", help="image_id, for a single URL.")] = None,
    run: Annotated[str, typer.Option(help="Which processing this is.")] = "live",
) -> None:
    """Publish photos; prints a line for each as soon as the broker has it."""
    events = [{"url": url} for url in urls or []]
    if image_id is not None:
        if len(events) != 1:
            raise UserError("--id goes with exactly one URL")
        events[0]["image_id"] = image_id
    if file is not None:
        events += _events_in(file)
    if not events:
        raise UserError("nothing to publish: name URLs, or a file with --file")
    _run(_publish(connected(context.obj), [{"run": run, **event} for event in events]))


_FIELDS = {"url", "image_id", "run", "classes", "deadline_s", "metadata"}


def _events_in(file: Path) -> list[dict[str, Any]]:
    try:
        lines = (sys.stdin.buffer if str(file) == "-" else file.open("rb")).read().splitlines()
    except OSError as error:
        raise UserError(f"{file} can't be read: {error.strerror}") from None
    events = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            event = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise UserError(f"{file}, line {number}: not JSON: {error}") from None
        if not isinstance(event, dict) or "url" not in event or not set(event) <= _FIELDS:
            raise UserError(f"{file}, line {number}: want an object with a url, and of {', '.join(sorted(_FIELDS))}")
        events.append(event)
    return events


async def _publish(settings: Settings, events: list[dict[str, Any]]) -> None:
    from stream_worker.publish import Publisher

    async with Publisher(settings) as publisher:
        async for sent in publisher.publish_many(events):
            out.print(
                f"{sent.image_id}  run={sent.run}  partition={sent.partition}  offset={sent.offset}", highlight=False
            )


class Format(StrEnum):
    """How events are shown."""

    TABLE = "table"
    JSON = "json"


class Outcome(StrEnum):
    """How an image can end."""

    COMPLETE = "complete"
    PARTIAL = "partial"
    FAILED = "failed"


@app.command(epilog="Example: [bold]stream-worker watch --since 2h --status failed --format json[/bold]")
def watch(
    context: typer.Context,
    image: Annotated[str | None, typer.Option(help="Only this image; ends when it has completed.")] = None,
    since: Annotated[
        str | None, typer.Option(help="Those of before, too: 2026-01-31T20:00 (UTC), or 2h (ago).")
    ] = None,
    status: Annotated[list[Outcome] | None, typer.Option(help="Only these outcomes; may be given again.")] = None,
    form: Annotated[Format, typer.Option("--format", help="A line an image, or whole events as JSON lines.")] = (
        Format.TABLE
    ),
) -> None:
    """Follow completed images as they come. With --image, those of before are looked through first."""
    from stream_worker.events import utc_now
    from stream_worker.window import moment

    begin = None if since is None else moment(since, utc_now())
    if image is not None and begin is None:
        begin = datetime.fromtimestamp(0, UTC)
    with contextlib.suppress(KeyboardInterrupt):
        _run(_watch(connected(context.obj), image, begin, set(status or Outcome), form))


async def _watch(
    settings: Settings, image: str | None, since: datetime | None, statuses: set[Outcome], form: Format
) -> None:
    from stream_worker.contract import encode
    from stream_worker.results import Results

    async with Results(settings, since=since) as results:
        async for event in results:
            if image not in (None, event.image_id) or Outcome(event.status) not in statuses:
                continue
            if form is Format.JSON:
                sys.stdout.write(encode(event).decode() + "\n")
                sys.stdout.flush()
            else:
                took = (event.completed_at - event.published_at).total_seconds()
                labels = ", ".join(one.label for one in event.objects) or "no objects"
                reason = f"  ({event.reason.code})" if event.reason else ""
                line = (
                    f"{event.completed_at:%H:%M:%S}  {event.image_id}  {event.status}{reason}  {took:.2f} s  {labels}"
                )
                out.print(_printable(line), highlight=False, markup=False)
            if image is not None:
                return


def _printable(text: str) -> str:
    """Without what a hostile id could do to a terminal."""
    return "".join(char if char.isprintable() else "\ufffd" for char in text)


@app.command(epilog="Example: [bold]stream-worker show room-1[/bold]")
def show(
    context: typer.Context,
    image_id: Annotated[str, typer.Argument(metavar="IMAGE_ID", help="The publisher's name of the photo.")],
    since: Annotated[
        str | None, typer.Option(help="Look no further back: 2026-01-31T20:00 (UTC), or 2h (ago).")
    ] = None,
    form: Annotated[Format, typer.Option("--format", help="A time line, or its parts as JSON lines.")] = Format.TABLE,
) -> None:
    """Tell an image's whole story: its events, who wrote them, seconds phase by phase, errors. Changes nothing."""
    from stream_worker.audit.table import progress
    from stream_worker.events import utc_now
    from stream_worker.story import lines, story
    from stream_worker.window import moment

    begin = None if since is None else moment(since, utc_now())
    with progress(err) as tell:
        chapters = _run(story(connected(context.obj), image_id, since=begin, progress=tell))
    if form is Format.JSON:
        for one in chapters:
            sys.stdout.write(orjson.dumps(one.plain()).decode() + "\n")
        return
    names = ("time", "s", "run", "what", "of", "worker", "detail", "seconds")
    folded = (Column(name, overflow="fold", justify="right" if name == "s" else "left") for name in names)
    table = Table(*folded, title=Text(f"image {_printable(image_id)}"))
    for row in lines(chapters):
        table.add_row(*(Text(_printable(cell)) for cell in row))
    out.print(table)


@app.command(epilog="Example: [bold]stream-worker status[/bold]")
def status(context: typer.Context) -> None:
    """Show lag and throughput of every group."""
    from stream_worker.status import measure

    table = Table("group", "reads", "workers", "lag", "records/s", title="stream_worker")
    for row in _run(measure(connected(context.obj))):
        table.add_row(row.group, row.topic, str(row.members), str(row.lag), f"{row.per_second:.1f}")
    out.print(table)


@app.command(epilog="Example: [bold]stream-worker audit --from 2h --json[/bold]")
def audit(
    context: typer.Context,
    since: Annotated[
        str | None, typer.Option("--from", help="Images accepted from then on: 2026-01-31T20:00 (UTC), or 2h (ago).")
    ] = None,
    until: Annotated[str | None, typer.Option("--to", help="Images accepted before then.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Blobs: only that they are there, and their size.")] = False,
    drained: Annotated[bool, typer.Option("--drained", help="All is said to be done: nothing is in flight.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The report as JSON.")] = False,
) -> None:
    """Check that every accepted image has its one outcome, with the objects and blobs it should have. Exit code 1: no.

    Reads the topics from their beginning and every referenced blob; changes nothing, and may run beside the service.
    """
    from stream_worker.audit.run import audit as run_audit
    from stream_worker.audit.table import progress, show
    from stream_worker.events import utc_now
    from stream_worker.window import window

    between = window(since, until, utc_now())
    with progress(err) as tell:
        report = _run(run_audit(connected(context.obj), between, quick=quick, drained=drained, progress=tell))
    if as_json:
        sys.stdout.write(orjson.dumps(report.plain(), option=orjson.OPT_INDENT_2).decode() + "\n")
    else:
        show(report, out)
    if not report.holds:
        raise typer.Exit(Exit.FAILED)


@app.command(epilog="Example: [bold]stream-worker -c production.toml config[/bold]")
def config(
    context: typer.Context,
    defaults: Annotated[bool, typer.Option("--defaults", help="All defaults, as a Markdown table.")] = False,
) -> None:
    """Show the settings in force, secrets masked, with what each is for."""
    if defaults:
        sys.stdout.write(markdown())
        return
    table = Table(Column("setting", no_wrap=True), Column("value", overflow="fold"), "what it is")
    for section, fields in shown(context.obj).items():
        described = type(getattr(context.obj, section)).model_fields
        for name, value in fields.items():
            shown_value = "unset" if value is None else str(value)
            table.add_row(f"{section}.{name}", shown_value, described[name].description or "")
    out.print(table)


# ---------------------------------------------------------------------- dead letters

_Topic = Annotated[str | None, typer.Option(help="Only of this topic, such as images.")]
_Stage = Annotated[str | None, typer.Option(help="Only of this stage, such as detector.")]
_Reasons = Annotated[list[Reason] | None, typer.Option("--reason", help="Only these reasons; may be given again.")]
_Since = Annotated[str | None, typer.Option(help="Only from then on: 2026-01-31T20:00 (UTC), or 2h (ago).")]
_Until = Annotated[str | None, typer.Option(help="Only before then.")]


def _wanted(
    topic: str | None, stage: str | None, reasons: list[Reason] | None, since: str | None, until: str | None
) -> Wanted:
    from stream_worker.events import utc_now
    from stream_worker.letters import Wanted
    from stream_worker.window import Window, moment

    now = utc_now()
    between = Window(*(None if text is None else moment(text, now) for text in (since, until)))
    return Wanted(between, topic, stage, frozenset(reason.value for reason in reasons or ()))


@letters_app.command(
    "list", epilog="Example: [bold]stream-worker dead-letters list --since 1d --reason fetch_failed[/bold]"
)
def letters_list(
    context: typer.Context,
    topic: _Topic = None,
    stage: _Stage = None,
    reasons: _Reasons = None,
    since: _Since = None,
    until: _Until = None,
    form: Annotated[Format, typer.Option("--format", help="A line a letter, or all of it as JSON lines.")] = (
        Format.TABLE
    ),
) -> None:
    """List dead letters, the oldest first, and how many there are of each reason."""
    _run(_letters_list(connected(context.obj), _wanted(topic, stage, reasons, since, until), form))


async def _letters_list(settings: Settings, wanted: Wanted, form: Format) -> None:
    from stream_worker.audit.table import progress
    from stream_worker.letters import letters

    counts: Counter[str] = Counter()
    names = ("letter", "time", "from", "stage", "reason", "key", "message")
    table = Table(*(Column(name, overflow="fold") for name in names), title="dead letters")
    with progress(err) as tell:
        async for one in letters(settings, wanted, tell):
            counts[one.reason] += 1
            if form is Format.JSON:
                sys.stdout.write(orjson.dumps(one.plain()).decode() + "\n")
                continue
            key = (one.key or b"").decode("utf-8", "replace")
            cells = (one.name, f"{one.at:%Y-%m-%d %H:%M:%S}", one.topic, one.stage, one.reason, key, one.message)
            table.add_row(*(Text(_printable(cell)) for cell in cells))
    if form is Format.TABLE:
        if counts:
            out.print(table)
        said = ", ".join(f"{count} {reason}" for reason, count in counts.most_common())
        out.print(_printable(said) or "no dead letters", highlight=False, markup=False)


@letters_app.command("show", epilog="Example: [bold]stream-worker dead-letters show 0:17[/bold]")
def letters_show(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="PARTITION:OFFSET", help="As `dead-letters list` shows it.")],
) -> None:
    """Show a dead letter as text: why it is one, its key, its headers and its value."""
    from stream_worker.letters import letter, readable

    found = _run(letter(connected(context.obj), name))
    why = {
        "from": f"{found.topic} {found.place}",
        "stage": found.stage,
        "reason": found.reason,
        "message": found.message,
        "attempts": f"{found.attempts}, from {found.first_at} to {found.last_at}",
        "key": readable(found.key),
        **{f"header {header}": readable(value) for header, value in found.headers},
    }
    for what, text in why.items():
        out.print(f"{_printable(what)}: {_printable(text)}", highlight=False, markup=False, soft_wrap=True)
    for line in readable(found.value).splitlines():
        out.print(_printable(line), highlight=False, markup=False, soft_wrap=True)


@letters_app.command(
    "export", epilog="Example: [bold]stream-worker dead-letters export letters.jsonl --since 7d[/bold]"
)
def letters_export(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="JSON lines, one a letter; key, value and headers in base64.")],
    topic: _Topic = None,
    stage: _Stage = None,
    reasons: _Reasons = None,
    since: _Since = None,
    until: _Until = None,
) -> None:
    """Write dead letters to a file that is not there yet; it appears when all of them are in it."""
    if file.exists():
        raise UserError(f"{file} is there already: name another")
    wanted, part = _wanted(topic, stage, reasons, since, until), file.with_name(f".{file.name}.part")
    try:
        with part.open("wb") as target:
            count = _run(_letters_export(connected(context.obj), wanted, target))
        part.rename(file)
    except OSError as error:
        raise UserError(f"{file} can't be written: {error.strerror}", Exit.FAILED) from None
    finally:
        part.unlink(missing_ok=True)
    out.print(f"{count} dead letters are in {file}", highlight=False)


async def _letters_export(settings: Settings, wanted: Wanted, target: BinaryIO) -> int:
    from stream_worker.audit.table import progress
    from stream_worker.letters import letters

    count = 0
    with progress(err) as tell:
        async for one in letters(settings, wanted, tell):
            target.write(orjson.dumps(one.plain()) + b"\n")
            count += 1
    return count


# ---------------------------------------------------------------------- broker and topics


@kafka_app.command("start", epilog="Example: [bold]stream-worker kafka start --port 9092[/bold]")
def kafka_start(
    context: typer.Context, port: Annotated[int | None, typer.Option(help="Unset: local.port, or a free one.")] = None
) -> None:
    """Start the private Kafka; it stays until `kafka stop`."""
    from stream_worker.local_kafka import LocalKafka, status

    folder = kafka_folder(context.obj)
    there = status(folder)
    if there is not None:
        raise UserError(f"Kafka runs already at {there.bootstrap_servers} (pid {there.pid})", Exit.FAILED)
    broker = LocalKafka(folder, port or context.obj.local.port, progress=err.print)
    _run(broker.start(daemon=True))
    out.print(f"Kafka runs at {broker.bootstrap_servers}, its data is in {folder}", highlight=False)


@kafka_app.command("stop", epilog="Example: [bold]stream-worker kafka stop[/bold]")
def kafka_stop(context: typer.Context) -> None:
    """Stop the private Kafka; its data stays."""
    from stream_worker.local_kafka import stop_daemon

    stopped = _run(stop_daemon(kafka_folder(context.obj)))
    out.print("Kafka stopped" if stopped else "no Kafka ran")


@kafka_app.command("status", epilog="Example: [bold]stream-worker kafka status[/bold]")
def kafka_status(context: typer.Context) -> None:
    """Tell whether the private Kafka runs, and where. Exit code 1: it does not."""
    from stream_worker.local_kafka import status

    there = status(kafka_folder(context.obj))
    if there is None:
        out.print("no Kafka runs")
        raise typer.Exit(Exit.FAILED)
    out.print(f"Kafka runs at {there.bootstrap_servers} (pid {there.pid})", highlight=False)


@topics_app.command("create", epilog="Example: [bold]stream-worker --broker kafka:9092 topics create[/bold]")
def topics_create(context: typer.Context) -> None:
    """Create the topics that are missing."""
    from stream_worker import topics

    created = _run(topics.create(connected(context.obj).kafka))
    out.print(f"created: {', '.join(created)}" if created else "all topics are there")


@topics_app.command("check", epilog="Example: [bold]stream-worker topics check[/bold]")
def topics_check(context: typer.Context) -> None:
    """Tell what is wrong with the topics. Exit code 4: something is."""
    from stream_worker import topics

    lines = _run(topics.problems(connected(context.obj).kafka))
    for line in lines:
        err.print(line, highlight=False)
    if lines:
        raise typer.Exit(Exit.TOPICS)
    out.print("all topics are as they should be")


def main() -> NoReturn:
    """Run the command line; a user's mistake is one line and an exit code, never a traceback."""
    try:
        app()
    except UserError as error:
        err.print(f"stream-worker: {error}", style="red", highlight=False, markup=False, soft_wrap=True)
        sys.stdout.flush()
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(Exit.FAILED)
    sys.exit(Exit.OK)
