"""Commands for the broker: the private Kafka of this machine, the topics that the service needs, who may do what."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from stream_worker.cli import console
from stream_worker.errors import Exit, UserError
from stream_worker.local_default import connected, kafka_folder
from stream_worker.security.acl import Role

kafka_app = typer.Typer(help="The private Kafka of this machine.", no_args_is_help=True)
app = typer.Typer()
topics_app = typer.Typer(help="The topics that the service needs.", no_args_is_help=True)


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
    broker = LocalKafka(folder, port or context.obj.local.port, progress=console.err.print)
    console.run(broker.start(daemon=True))
    console.out.print(f"Kafka runs at {broker.bootstrap_servers}, its data is in {folder}", highlight=False)


@kafka_app.command("stop", epilog="Example: [bold]stream-worker kafka stop[/bold]")
def kafka_stop(context: typer.Context) -> None:
    """Stop the private Kafka; its data stays."""
    from stream_worker.local_kafka import stop_daemon

    stopped = console.run(stop_daemon(kafka_folder(context.obj)))
    console.out.print("Kafka stopped" if stopped else "no Kafka ran")


@kafka_app.command("status", epilog="Example: [bold]stream-worker kafka status[/bold]")
def kafka_status(context: typer.Context) -> None:
    """Tell whether the private Kafka runs, and where. Exit code 1: it does not."""
    from stream_worker.local_kafka import status

    there = status(kafka_folder(context.obj))
    if there is None:
        console.out.print("no Kafka runs")
        raise typer.Exit(Exit.FAILED)
    console.out.print(f"Kafka runs at {there.bootstrap_servers} (pid {there.pid})", highlight=False)


@topics_app.command("create", epilog="Example: [bold]stream-worker --broker kafka:9092 topics create[/bold]")
def topics_create(context: typer.Context) -> None:
    """Create the topics that are missing."""
    from stream_worker import topics

    created = console.run(topics.create(connected(context.obj).kafka))
    console.out.print(f"created: {', '.join(created)}" if created else "all topics are there")


@topics_app.command("check", epilog="Example: [bold]stream-worker topics check[/bold]")
def topics_check(context: typer.Context) -> None:
    """Tell what is wrong with the topics. Exit code 4: something is."""
    from stream_worker import topics

    lines = console.run(topics.problems(connected(context.obj).kafka))
    for line in lines:
        console.err.print(line, highlight=False)
    if lines:
        raise typer.Exit(Exit.TOPICS)
    console.out.print("all topics are as they should be")


@app.command(
    epilog="Example: [bold]stream-worker -b kafka:9092 acls --role reader --principal User:shop --group shop[/bold]"
)
def acls(
    context: typer.Context,
    roles: Annotated[list[Role] | None, typer.Option("--role", help="Unset: all of them.")] = None,
    principal: Annotated[str | None, typer.Option(help="Who gets it; unset: User:<role>.")] = None,
    group: Annotated[str | None, typer.Option(help="The consumer group of a reader's app.")] = None,
    apply: Annotated[
        bool, typer.Option("--apply/--print", help="Give them, as the user of these settings; else print the commands.")
    ] = False,
    table: Annotated[bool, typer.Option("--table", help="All roles, as a Markdown table.")] = False,
) -> None:
    """Show or give the ACLs of each role: the least that its work needs (ops/security.md)."""
    from stream_worker.security import acl, authorizing

    if table:
        sys.stdout.write(acl.markdown())
        return
    if principal is not None and len(roles or ()) != 1:
        raise UserError("--principal takes one --role: several roles of one user are not least privilege")
    if principal is not None and not principal.startswith("User:"):
        raise UserError("--principal is written User:name")
    for role in roles or list(Role):
        who = principal or f"User:{role}"
        own = group if role is Role.READER else None
        if apply:
            count = console.run(authorizing.apply(connected(context.obj).kafka, role, who, own))
            console.out.print(f"{who} has the {count} ACLs of role {role}", highlight=False, markup=False)
            continue
        kafka = context.obj.kafka
        servers = kafka.bootstrap_servers or "localhost:9092"
        sys.stdout.write(f"# {role}: {acl.WHO[role]}\n")
        lines = acl.commands(role, who, servers=servers, prefix=kafka.prefix, group=own)
        sys.stdout.write("\n".join(lines) + "\n")
