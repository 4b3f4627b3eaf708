"""`cdds dead-letters list`, `show` and `replay`."""

import asyncio
import base64
import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.markup import escape

from cli.broker import reaching
from cli.console import Exit, Failure, Output, OutputOption, ago_option, err, print_table
from cli.dead_letters import inert
from cli.dead_letters.records import DeadLetter, Place, Selection, find, look_up, original_headers
from cli.dead_letters.replaying import Refusal, Replay, Replayed, carry_out, plan
from cli.installation import DataOption, Installation, KafkaOption, cluster_of
from shared.clock import utc_text
from shared.cluster import Cluster
from shared.messaging import DEAD_HEADERS, RawRecord

app = typer.Typer(help="Records that a service could not apply: why, and once more.", no_args_is_help=True)

TopicOption = Annotated[str | None, typer.Option("--topic", help="The topic they came from.")]
SinceOption = Annotated[datetime | None, ago_option("When they were put aside:")]
TypeOption = Annotated[str | None, typer.Option("--type", help="The event, as JobCreated.")]
TenantOption = Annotated[str | None, typer.Option("--tenant")]
HandlerOption = Annotated[str | None, typer.Option("--handler", help="The service that put them aside.")]

_REASON_LETTERS: Final = 160


@app.command("list")
def list_letters(
    topic: TopicOption = None,
    since: SinceOption = None,
    type: TypeOption = None,
    tenant: TenantOption = None,
    handler: HandlerOption = None,
    waiting: Annotated[bool, typer.Option("--waiting", help="Only those that were not replayed.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="The newest so many.")] = 100,
    kafka: KafkaOption = None,
    data: DataOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """List the records that were put aside in the last 7 days, the newest first; changes nothing."""
    cluster = cluster_of(Installation.find(data, kafka=kafka))
    selection = Selection(topic, since, type, tenant, handler, waiting)
    found = asyncio.run(reaching(cluster, find(cluster, selection)))
    shown = found[::-1][:limit]
    if output == Output.JSON:
        _print_json({"items": [_described(letter) for letter in shown], "total": len(found)})
        return
    if not found:
        err.print("There are none.")
        return
    _print_letters(shown)
    if len(shown) < len(found):
        err.print(f"{len(found) - len(shown):,} older ones are not shown; --limit shows more.", highlight=False)


@app.command()
def show(
    place: Annotated[list[str], typer.Argument(metavar="TOPIC PARTITION OFFSET", help="Or TOPIC/PARTITION/OFFSET.")],
    body: Annotated[Path | None, typer.Option("--body", help="Write the body to this file, byte for byte.")] = None,
    kafka: KafkaOption = None,
    data: DataOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show one record: where it came from, why it was put aside, its headers and its body."""
    wanted = Place.read("/".join(place))
    cluster = cluster_of(Installation.find(data, kafka=kafka))
    record = asyncio.run(reaching(cluster, _record(cluster, wanted)))
    letter = DeadLetter.of(record)
    traceback = _header(record, "dead_traceback")
    if body is not None:
        _write(body, record.value or b"")
    if output == Output.JSON:
        _print_json({**_described(letter), "traceback": traceback, **_content(record)})
        return
    for name, text in (
        ("id", str(letter.place)),
        ("put aside", utc_text(letter.at)),
        ("by", inert.inert(letter.handler)),
        ("came from", inert.inert(str(letter.source or "it does not say"))),
        ("replayed", f"{letter.replays} times before"),
        ("key", inert.readable(record.key)),
        ("reason", inert.inert(letter.reason, lines=True)),
    ):
        typer.echo(f"{name:10} {text}")
    if traceback:
        typer.echo("\n" + inert.inert(traceback, lines=True).rstrip())
    typer.echo("\nheaders")
    for name, value in original_headers(record):
        typer.echo(f"  {inert.inert(name):16} {inert.readable(value)}")
    if letter.left_out is not None:
        typer.echo(f"\nits {letter.left_out:,} bytes were too many to be put aside; the record is where it came from")
        return
    typer.echo(f"\nbody, {len(record.value or b''):,} bytes\n{inert.body(record.value)}")


@app.command()
def replay(
    ids: Annotated[list[str] | None, typer.Argument(metavar="[TOPIC/PARTITION/OFFSET]...")] = None,
    all_: Annotated[
        bool, typer.Option("--all", help="All that the filters leave and that were not replayed yet.")
    ] = False,
    topic: TopicOption = None,
    since: SinceOption = None,
    type: TypeOption = None,
    tenant: TenantOption = None,
    handler: HandlerOption = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be published, and change nothing.")
    ] = False,
    kafka: KafkaOption = None,
    data: DataOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Publish records once more on the topics they came from, after what stood in their way was mended.

    Every consumer of the topic gets them again and knows what it has applied already. A record that still can't be
    applied comes back as a new dead letter. Exit code 1 when one was refused.
    """
    filters = (topic, since, type, tenant, handler)
    if bool(ids) == all_:
        raise Failure("say which: TOPIC/PARTITION/OFFSET as `cdds dead-letters list` shows them, or --all")
    if ids and any(filters):
        raise Failure("filters go with --all; leave them out where ids are given")
    places = [Place.read(text) for text in dict.fromkeys(ids or ())]
    cluster = cluster_of(Installation.find(data, kafka=kafka))
    selection = Selection(topic, since, type, tenant, handler, waiting=True)
    replays, refused = asyncio.run(reaching(cluster, _planned(cluster, places, selection)))
    for one in refused:
        err.print(
            f"[bold red]refused:[/] {one.letter.place}: {escape(inert.inert(one.reason))}",
            highlight=False, soft_wrap=True,
        )  # fmt: skip
    done: list[Replayed] = []
    if replays and not dry_run:
        if not yes:
            if output == Output.TABLE:
                _print_letters([one.letter for one in replays])
            typer.confirm(f"Publish {_records(len(replays))} once more?", abort=True, err=True)
        try:
            asyncio.run(reaching(cluster, carry_out(cluster, replays, done.append)))
        except Failure as failure:
            raise Failure(
                f"{failure}; {_records(len(done))} of {len(replays)} had been replayed", failure.code
            ) from failure
    _print_replays(replays, refused, done, dry_run=dry_run, output=output)
    if refused:
        raise typer.Exit(Exit.FAILED)


async def _record(cluster: Cluster, place: Place) -> RawRecord:
    [record] = [record async for record in look_up(cluster, [place])]
    return record


async def _planned(
    cluster: Cluster, places: Sequence[Place], selection: Selection
) -> tuple[list[Replay], list[Refusal]]:
    if not places:
        return await plan(cluster, await find(cluster, selection))
    letters = [DeadLetter.of(record) async for record in look_up(cluster, places)]
    # All consumers get the record again, so what the others put aside of it is replayed, too.
    for topic in sorted({place.topic for place in places}):
        asked = {letter.identity for letter in letters}
        others = await find(cluster, Selection(topic, waiting=True))
        letters += [other for other in others if other.identity in asked and other.place not in places]
    return await plan(cluster, letters)


def _described(letter: DeadLetter) -> dict[str, Any]:
    source = letter.source
    return {
        "id": str(letter.place),
        **letter.place._asdict(),
        "at": utc_text(letter.at),
        "type": letter.type,
        "key": None if letter.key is None else letter.key.decode("utf-8", "backslashreplace"),
        "tenant": letter.tenant,
        "reason": letter.reason,
        "handler": letter.handler,
        "source": None if source is None else source._asdict(),
        "bytes_left_out": letter.left_out,
        "replays": letter.replays,
        "replayed_at": None if letter.replayed_at is None else utc_text(letter.replayed_at),
    }


def _content(record: RawRecord) -> dict[str, Any]:
    """Headers and body; bytes that are no text are in base64."""
    value = record.value
    try:
        body = {"body": None if value is None else value.decode()}
    except UnicodeDecodeError:
        body = {"body_base64": base64.b64encode(value or b"").decode()}
    headers = [[name, (header or b"").decode("utf-8", "backslashreplace")] for name, header in original_headers(record)]
    return {"headers": headers, **body}


def _header(record: RawRecord, name: str) -> str | None:
    assert name in DEAD_HEADERS
    found = [value or b"" for header, value in record.headers if header == name]
    return found[-1].decode("utf-8", "replace") if found else None


def _write(path: Path, content: bytes) -> None:
    try:
        path.write_bytes(content)
    except OSError as error:
        raise Failure(f"--body {path}: {error.strerror}") from error


def _print_json(content: object) -> None:
    """One document in ASCII: what is in dead letters was written by others, and a terminal may be looking."""
    typer.echo(json.dumps(content, indent=2))


def _print_letters(letters: Sequence[DeadLetter]) -> None:
    rows = [
        (
            str(letter.place),
            utc_text(letter.at)[:19] + "Z",
            letter.type,
            inert.readable(letter.key),
            letter.tenant,
            letter.handler,
            "" if letter.replayed_at is None else utc_text(letter.replayed_at)[:19] + "Z",
            " ".join(letter.reason.split())[:_REASON_LETTERS],
        )
        for letter in letters
    ]
    print_table(
        "id", "put aside", "type", "key", "tenant", "handler", "replayed", "reason",
        rows=[[escape(inert.inert(cell)) for cell in row] for row in rows],
    )  # fmt: skip


def _print_replays(
    replays: Sequence[Replay], refused: Sequence[Refusal], done: Sequence[Replayed], *, dry_run: bool, output: Output
) -> None:
    went = {one.replay.letter.place: one for one in done}
    if output == Output.JSON:
        items = [
            {
                "id": str(one.letter.place),
                "same_record": [str(other.place) for other in one.others],
                "topic": one.topic,
                "replays": one.number,
                "partition": went[one.letter.place].partition if went else None,
                "offset": went[one.letter.place].offset if went else None,
            }
            for one in replays
        ]
        refusals = [{"id": str(one.letter.place), "reason": one.reason} for one in refused]
        _print_json({"dry_run": dry_run, "replayed": items, "refused": refusals})
        return
    for one in replays:
        where = went.get(one.letter.place)
        to = f"would go to {one.topic}" if where is None else f"is {one.topic}/{where.partition}/{where.offset} now"
        same = f", which stands for {', '.join(str(other.place) for other in one.others)} too" if one.others else ""
        typer.echo(f"{one.letter.place}{same} {to}, replay {one.number}")
    verb = "would be replayed" if dry_run else "replayed"
    typer.echo(f"{_records(len(replays))} {verb}, {len(refused)} refused.")
    if done:
        typer.echo("What still can't be applied comes back: `cdds dead-letters list --waiting` shows it.")


def _records(count: int) -> str:
    return f"{count:,} record{'' if count == 1 else 's'}"
