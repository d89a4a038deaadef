"""List, show and replay the rejects of `trades-rejected`: `python -m online.rejects list|show|replay`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from confluent_kafka import KafkaError, KafkaException

from data.files import may_lose_its_reader
from data.names import NotRead, RecordRefused, new_replay_id, printable
from data.process.running import REFUSED
from data.settings import KafkaSettings
from data.stream.clients import UNUSED, is_passing, refusal
from data.stream.reader import TopicReader
from data.stream.records import REJECTED, TRADES
from data.times import to_ns
from online.rejects.choice import Choice
from online.rejects.kept import REPLAY_PREFIX, RejectsReader
from online.rejects.pages import as_json, count, list_document, list_page, reject_page
from online.rejects.repair import BadRepair, read_repaired
from online.rejects.resend import TRANSACTIONS, Plan, plan, replayer, send

FENCED = (KafkaError._FENCED, KafkaError.PRODUCER_FENCED, KafkaError.INVALID_PRODUCER_EPOCH)
NEWEST = 20
LIST = "python -m online.rejects list"


@contextmanager
def _rejects() -> Iterator[RejectsReader]:
    with TopicReader(KafkaSettings()) as reader:
        yield RejectsReader(reader)


def list_rejects(arguments: argparse.Namespace) -> int:
    """Print the chosen rejects, counted by reason, the newest first."""
    choice = _choice(arguments, is_of_replay=True if arguments.again else None)
    with _rejects() as rejects:
        counts = count(filter(choice.takes, rejects.read()), arguments.newest)
    if arguments.json:
        print(as_json(list_document(counts, rejects.unreadable)))
    else:
        print("\n".join(list_page(counts, rejects.unreadable)))
    return 0


def show(arguments: argparse.Namespace) -> int:
    """Print all that is known of a reject."""
    choice = Choice(ids=frozenset([arguments.id]))
    with _rejects() as rejects:
        found = list(filter(choice.takes, rejects.read()))
    if not found:
        print(f"no reject {arguments.id} is on {REJECTED}; `{LIST}` shows the ids", file=sys.stderr)
        return REFUSED
    print("\n\n".join("\n".join(reject_page(kept)) for kept in found))
    return 0


def replay(arguments: argparse.Namespace) -> int:
    """Send the chosen rejects as new sources."""
    repaired = read_repaired(arguments.repaired) if arguments.repaired else {}
    ids = frozenset(arguments.ids or repaired) or None
    choice = _choice(arguments, ids=ids, is_of_replay=None if ids else arguments.again)
    if choice == Choice(is_of_replay=False) and not arguments.all:
        print("choose rejects by id, by a condition or by a repaired list, or all of them with --all", file=sys.stderr)
        return REFUSED
    new_id = REPLAY_PREFIX + new_replay_id(datetime.now(UTC)).removeprefix("replay-")
    settings = KafkaSettings()
    with TopicReader(settings) as reader:
        reader.partitions(REJECTED)  # tells a broker that is away
        # Before the topic is read: no other replay can send what this one has read.
        producer = None if arguments.dry_run else replayer(settings)
        rejects = RejectsReader(reader)
        made = plan(filter(choice.takes, rejects.read()), new_id, repaired)
    if producer is not None and made.trades:
        send(made, producer)
    print("\n".join(_report(made, is_sent=not arguments.dry_run)))
    return 0


def _report(made: Plan, *, is_sent: bool) -> Iterator[str]:
    verb = "sent" if is_sent else "would send"
    yield f"{verb} {made.trades:,} trades as {len(made.sources):,} sources, each with its end"
    for source_id, trades in made.sources.items():
        yield f"{len(trades):>9,}  of {printable(made.origins[source_id])} as {source_id}"
    if made.left_out:
        yield f"left out {made.left_out.total():,} rejects, which stay on {REJECTED}:"
        yield from (f"{rows:>9,}  {reason}" for reason, rows in made.left_out.most_common())
    if is_sent and made.trades:
        yield f"what the forecaster refuses again is kept again: `{LIST} --again`"


def _choice(
    arguments: argparse.Namespace, *, ids: frozenset[str] | None = None, is_of_replay: bool | None = None
) -> Choice:
    return Choice(
        ids=ids,
        reason=arguments.reason,
        product_id=arguments.product,
        source_id=arguments.source,
        since_ms=arguments.since,
        until_ms=arguments.until,
        is_of_replay=is_of_replay,
    )


def _time_ms(text: str) -> int:
    """Return a time, without a zone in UTC, as ms since 1970."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a time as 2025-01-06T13:00:00Z, was {text!r}") from None
    return to_ns(found if found.tzinfo is not None else found.replace(tzinfo=UTC)) // 1_000_000


def _at_least_one(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a number from 1 on, was {text!r}")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m online.rejects",
        description="List, show and replay what ingestor and forecaster refused.",
        epilog="The broker is KAFKA_BOOTSTRAP_SERVERS, 127.0.0.1:9092 where that is not set.",
    )
    commands = parser.add_subparsers(required=True)
    chosen = argparse.ArgumentParser(add_help=False)
    chosen.add_argument("--reason", metavar="TEXT", help="whose reason has this text")
    chosen.add_argument("--product", metavar="ID", help="of this product")
    chosen.add_argument("--source", metavar="ID", help="of this source")
    chosen.add_argument("--since", type=_time_ms, metavar="TIME", help="at this time or later, UTC")
    chosen.add_argument("--until", type=_time_ms, metavar="TIME", help="before this time, UTC")
    chosen.add_argument("--again", action="store_true", help="sent by a replay, and refused again")
    listing = commands.add_parser("list", parents=[chosen], help="counts by reason, and the newest rejects")
    listing.add_argument("--newest", type=_at_least_one, default=NEWEST, metavar="N", help=f"{NEWEST} without this")
    listing.add_argument("--json", action="store_true", help="for programs, and for `replay --repaired`")
    listing.set_defaults(run=list_rejects)
    showing = commands.add_parser("show", help="one reject, with the bytes of the record")
    showing.add_argument("id", help="as in the list, or where the record was refused, as coinbase-trades[9]@41")
    showing.set_defaults(run=show)
    replaying = commands.add_parser("replay", parents=[chosen], help="send rejects again, as new sources")
    replaying.add_argument("ids", nargs="*", metavar="ID", help="as in the list")
    replaying.add_argument("--all", action="store_true", help="all rejects that no replay has sent")
    replaying.add_argument("--repaired", type=Path, metavar="FILE", help="of `list --json`, with mended trades")
    replaying.add_argument("--dry-run", action="store_true", help="send nothing, and tell what would be sent")
    replaying.set_defaults(run=replay)
    return parser


def main(given: list[str] | None = None) -> int:
    """Run a command; return the exit code, 2 for a refusal."""
    arguments = _parser().parse_args(given)
    try:
        with may_lose_its_reader():
            code: int = arguments.run(arguments)
            return code
    except (NotRead, BadRepair, RecordRefused) as error:
        print(error, file=sys.stderr)
    except KafkaException as error:
        print(_reason(error.args[0]), file=sys.stderr)
    return REFUSED


def _reason(error: KafkaError) -> str:
    if error.code() in FENCED:
        return f"nothing was sent: another replay of rejects has begun; look at `{LIST}`, and start again"
    if is_passing(error):
        return "the broker did not answer in time; start the replay again, which leaves out what was sent"
    said = refusal(error, (TRADES, REJECTED), (UNUSED, f"{TRANSACTIONS}-"))
    return f"nothing was sent: the broker refuses: {said}"


if __name__ == "__main__":
    sys.exit(main())
