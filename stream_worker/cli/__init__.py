"""The door: `stream-worker`, one command for every thing that people do with the service."""

from __future__ import annotations

import logging
import os
import signal
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from stream_worker import telemetry
from stream_worker.cli import broker, console, letters, look, runs, service, use
from stream_worker.errors import Exit, UserError
from stream_worker.local_default import with_broker
from stream_worker.settings import load

app = typer.Typer(
    name="stream-worker",
    help="Turns streams of photos into 3D objects: Kafka in, YOLOE-seg and SAM 3D on your GPUs, completed images out.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for commands in (service.app, use.app, runs.app, look.app, broker.app):
    app.add_typer(commands)
app.add_typer(letters.app, name="dead-letters")
app.add_typer(broker.kafka_app, name="kafka")
app.add_typer(broker.topics_app, name="topics")


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


def main() -> NoReturn:
    """Run the command line; a user's mistake is one line and an exit code, never a traceback."""
    try:
        app()
    except UserError as error:
        console.err.print(f"stream-worker: {error}", style="red", highlight=False, markup=False, soft_wrap=True)
        sys.stdout.flush()
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(Exit.FAILED)
    sys.exit(Exit.OK)
