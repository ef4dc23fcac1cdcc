"""A gRPC call written by hand, with headers that grpc's own client would refuse to send."""

import asyncio
from collections.abc import Sequence

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions

Headers = Sequence[tuple[bytes, bytes]]


async def grpc_status(address: str, path: str, headers: Headers, message: bytes = b"") -> int | str:
    """Return the grpc-status of a unary call; "reset" or "closed" when the server ended it without one."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        async with asyncio.timeout(20):
            return await _exchanged(reader, writer, path, headers, message)
    finally:
        writer.close()


async def _exchanged(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str, headers: Headers, message: bytes
) -> int | str:
    config = h2.config.H2Configuration(
        validate_outbound_headers=False, normalize_outbound_headers=False, header_encoding=None
    )
    connection = h2.connection.H2Connection(config)
    connection.initiate_connection()
    sent = [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", path.encode()),
        (b":authority", b"localhost"),
        (b"content-type", b"application/grpc"),
        (b"te", b"trailers"),
        *headers,
    ]
    connection.send_headers(1, sent)
    connection.send_data(1, b"\x00" + len(message).to_bytes(4, "big") + message, end_stream=True)
    while True:
        writer.write(connection.data_to_send())
        received = await reader.read(65_536)
        if not received:
            return "closed"
        try:
            events = connection.receive_data(received)
        except h2.exceptions.ProtocolError:
            return "closed"
        for event in events:
            if isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
                found = dict(event.headers or ())
                if b"grpc-status" in found:
                    return int(found[b"grpc-status"])
            if isinstance(event, h2.events.StreamReset):
                return "reset"
