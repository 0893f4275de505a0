"""Proxy TCP from one loopback port to another with a given round trip time: half of it is added in each direction.

    python -m bench.latency TARGET_PORT MILLISECONDS

It runs as a separate process, so that its CPU time is not counted for the program that is measured, and prints its
port. Bytes stay in order, bandwidth is not limited, and a new connection waits one round trip as for a handshake.
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
_Packet = tuple[float, bytes]  # when to deliver, content


@contextmanager
def delayed(host: str, milliseconds: float) -> Iterator[str]:
    """Start the proxy and return the address by which `host` (127.0.0.1:PORT) is that many milliseconds away."""
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
    target_reader, target_writer = await asyncio.open_connection("127.0.0.1", target)
    await asyncio.sleep(round_trip)
    await asyncio.gather(
        _forward(reader, target_writer, round_trip / 2),
        _forward(target_reader, writer, round_trip / 2),
    )


async def _forward(reader: StreamReader, writer: StreamWriter, delay: float) -> None:
    packets: Queue[_Packet] = Queue()
    delivery = asyncio.create_task(_deliver(packets, writer))
    with suppress(OSError):
        while chunk := await reader.read(_CHUNK):
            packets.put_nowait((asyncio.get_running_loop().time() + delay, chunk))
    packets.put_nowait((0, b""))
    await delivery


async def _deliver(packets: Queue[_Packet], writer: StreamWriter) -> None:
    loop = asyncio.get_running_loop()
    with suppress(OSError):
        while (packet := await packets.get())[1]:
            due, chunk = packet
            await asyncio.sleep(max(0, due - loop.time()))
            writer.write(chunk)
        writer.close()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1]), float(sys.argv[2]) / 1000))
