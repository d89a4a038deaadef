"""Client that asks `/predict` at a fixed rate, whatever the answers: `python -m tests.faults.asker`.

Arguments: the API's port, requests a second, and a file of rows, one JSON document a line. Each request has one row, in
turn. The output has a line for each request: see `Asked`.
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
    """A request.

    Attributes:
        row: index of the row in the request.
        due, sent, done: times, ns since 1970; `due` is the plan, and a request is sent later if no connection is free.
        status: 0 without an answer.
        answer: body of the answer, or the error without an answer.
    """

    row: int
    due: int
    sent: int
    done: int
    status: int
    answer: msgspec.Raw


async def _ask(port: int, body: bytes, free: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]]) -> Asked:
    """Send a request over a free connection; the caller fills in row and plan."""
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
    """Send requests until SIGTERM, then wait for open requests."""
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
