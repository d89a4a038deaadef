"""A client that asks `/predict` at a fixed rate, whatever becomes of its requests: `python -m tests.faults.asker`.

Its arguments: the API's port, requests a second, a file of rows, one JSON document a line. Each request has one
row, in turn. What came of each is one line of its output: see `Asked`.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from pathlib import Path

import msgspec

CONNECTIONS = 32
TIMEOUT_S = 10.0


class Asked(msgspec.Struct):
    """One request.

    Attributes:
        row: which row it asked about.
        due, sent, done: when, ns since 1970; `due` is in the plan, and a request that finds all connections busy is
            sent later.
        status: 0 where there was no answer.
        answer: its body; what was wrong, where there was none.
    """

    row: int
    due: int
    sent: int
    done: int
    status: int
    answer: msgspec.Raw


async def _ask(port: int, body: bytes, free: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]]) -> Asked:
    """Ask over a connection that is free; row and plan are for the caller to fill in."""
    reader, writer = await free.get()
    sent = time.time_ns()
    try:
        async with asyncio.timeout(TIMEOUT_S):
            head = f"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body)
            lines = (await reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
            (length,) = (int(line.split(b":")[1]) for line in lines if line.startswith(b"content-length:"))
            answer = await reader.readexactly(length)
        found = Asked(0, 0, sent, time.time_ns(), int(lines[0].split()[1]), msgspec.Raw(answer))
    except (OSError, asyncio.IncompleteReadError, ValueError) as error:
        writer.close()
        found = Asked(0, 0, sent, time.time_ns(), 0, msgspec.Raw(msgspec.json.encode(repr(error))))
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    free.put_nowait((reader, writer))
    return found


async def main(port: int, per_second: float, rows: Path) -> None:
    """Ask until SIGTERM, then wait for what is under way."""
    bodies = [b'{"rows":[' + line + b"]}" for line in rows.read_bytes().splitlines()]
    free: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
    for _ in range(CONNECTIONS):
        free.put_nowait(await asyncio.open_connection("127.0.0.1", port))
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    under_way: set[asyncio.Task[None]] = set()

    async def ask(number: int, due: int) -> None:
        row = number % len(bodies)
        found = await _ask(port, bodies[row], free)
        found.row, found.due = row, due
        sys.stdout.buffer.write(msgspec.json.encode(found) + b"\n")
        sys.stdout.buffer.flush()

    started, number = time.time_ns(), 0
    while not stop.is_set():
        due = started + int(1e9 * number / per_second)
        try:
            async with asyncio.timeout(max(0.0, (due - time.time_ns()) / 1e9)):
                await stop.wait()
        except TimeoutError:
            task = asyncio.create_task(ask(number, due))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
            number += 1
    if under_way:
        await asyncio.wait(under_way)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), float(sys.argv[2]), Path(sys.argv[3])))
