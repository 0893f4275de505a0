"""A wire of a given length: TCP from one loopback port to another, each way late by half of a round trip.

    python -m bench.latency TARGET_PORT MILLISECONDS

It is a process of its own, so that its work is not counted as that of whoever is measured, and prints its port. Bytes
stay in order and are not slowed down otherwise; a new connection waits a round trip, as its handshake would.
"""

import asyncio
import subprocess
import sys
from asyncio import Queue, StreamReader, StreamWriter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_CHUNK = 1 << 16
_Parcel = tuple[float, bytes]


@contextmanager
def delayed(host: str, milliseconds: float) -> Iterator[str]:
    """The address by which `host` (127.0.0.1:PORT) is that far away."""
    words = [sys.executable, "-m", "bench.latency", host.rpartition(":")[2], str(milliseconds)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            port = process.stdout.readline().strip() if process.stdout else ""
            yield f"127.0.0.1:{port}"
        finally:
            process.kill()


async def _serve(target: int, round_trip: float) -> None:
    server = await asyncio.start_server(partial(_connect, target, round_trip), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


async def _connect(target: int, round_trip: float, reader: StreamReader, writer: StreamWriter) -> None:
    there_reader, there_writer = await asyncio.open_connection("127.0.0.1", target)
    await asyncio.sleep(round_trip)
    await asyncio.gather(
        _carry(reader, there_writer, round_trip / 2),
        _carry(there_reader, writer, round_trip / 2),
    )


async def _carry(reader: StreamReader, writer: StreamWriter, delay: float) -> None:
    parcels: Queue[_Parcel] = Queue()
    delivery = asyncio.create_task(_deliver(parcels, writer))
    with suppress(OSError):
        while chunk := await reader.read(_CHUNK):
            parcels.put_nowait((asyncio.get_running_loop().time() + delay, chunk))
    parcels.put_nowait((0, b""))
    await delivery


async def _deliver(parcels: Queue[_Parcel], writer: StreamWriter) -> None:
    loop = asyncio.get_running_loop()
    with suppress(OSError):
        while (parcel := await parcels.get())[1]:
            due, chunk = parcel
            await asyncio.sleep(max(0, due - loop.time()))
            writer.write(chunk)
        writer.close()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1]), float(sys.argv[2]) / 1000))
