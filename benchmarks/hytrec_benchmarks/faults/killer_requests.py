"""Requests that ended a Triton server, or might: a real one has to be the same process after each of them.

Found on 2.51 (24.10) by hand. Those of `overflowing_killers` do end a python model of 2.51 where they are let in;
SECURITY.md says what closes them.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from hytrec.signature import APPEND, ENSEMBLES, FORGET, RANK, RECOMMEND
from hytrec_export.optional import require
from hytrec_export.server import EmbeddedServer

TIMEOUT_S = 30.0
_LARGE = 64 << 20
_MANY = 5_000
_UNLIMITED = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
_USER = struct.pack("<I", 6) + b"killer"
_INFER = "/inference.GRPCInferenceService/ModelInfer"
_STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
Tensor = tuple[str, list[int], bytes]
"""Datatype, shape, content."""


@dataclass(frozen=True)
class Killer:
    """A kind of request.

    Args:
        message: a ModelInferRequest.
        method: of the gRPC service.
        compressed: by gzip, as gRPC compresses.
    """

    name: str
    message: Any
    method: str = _INFER
    compressed: bool = False


def infer_request(model: str, **tensors: Tensor) -> Any:
    """A ModelInferRequest of these tensors, unchecked."""
    message = require("tritonclient.grpc.service_pb2", extra="client").ModelInferRequest(model_name=model)
    for name, (datatype, shape, content) in tensors.items():
        message.inputs.add(name=name, datatype=datatype, shape=shape)
        message.raw_input_contents.append(content)
    return message


def grpc_killers() -> Iterator[Killer]:
    """Kinds that a server of integer keys must survive, whoever sends them."""
    user: Tensor = ("BYTES", [1, 1], _USER)
    for endpoint in (*ENSEMBLES, FORGET):
        for output in endpoint.outputs:
            for classes in (3, 1 << 40):
                message = infer_request(endpoint.name, user_id=user)
                message.outputs.add(name=output.name).parameters["classification"].int64_param = classes
                yield Killer(f"{classes} classes of {endpoint.name}'s {output.name}", message)
    for shape in ([1, -1], [-1, -1], [1, 1 << 31], [1 << 32, 1 << 32], [1 << 61, 1], [0, 1], [], [1] * 1_000):
        name = f"shape {shape[:2]} of {len(shape)} axes"
        yield Killer(f"times of {name}", infer_request(APPEND.name, user_id=user, times=("INT64", shape, b"")))
        yield Killer(f"user_id of {name}", infer_request(APPEND.name, user_id=("BYTES", shape, b"")))
        yield Killer(
            f"request_id of {name}", infer_request(APPEND.name, user_id=user, request_id=("UINT8", shape, b""))
        )
    for name, content in (
        ("too long", b"\xff\xff\xff\xffa"),
        ("too many", b"\0\0\0\0" * 1_000),
        ("half a length", b"\0\0"),
    ):
        yield Killer(f"strings: {name}", infer_request(RECOMMEND.name, user_id=("BYTES", [1, 1], content)))
    for parameter in ("sequence_id", "sequence_start", "priority", "timeout", "triton_enable_empty_final_response"):
        for field, value in (
            ("int64_param", -(1 << 63)),
            ("string_param", "x" * 100_000),
            ("double_param", float("nan")),
        ):
            message = infer_request(APPEND.name, user_id=user)
            setattr(message.parameters[parameter], field, value)
            yield Killer(f"parameter {parameter} as {field}", message)
    for name, spoil in _SPOILED.items():
        message = infer_request(RANK.name, user_id=user)
        spoil(message)
        yield Killer(name, message)
        yield Killer(f"{name}, in a stream", message, method=_STREAM)
    large = infer_request(APPEND.name, user_id=("BYTES", [1, 1], struct.pack("<I", _LARGE) + bytes(_LARGE)))
    yield Killer("a user id of 64 MiB", large)
    yield Killer("a user id of 64 MiB, compressed a thousandfold", large, compressed=True)


def overflowing_killers() -> Iterator[Killer]:
    """Shapes whose size in bytes is 0 in 64 bits: the python backend's stub of 2.51 aborts over them."""
    user: Tensor = ("BYTES", [1, 1], _USER)
    for length in (1 << 61, 1 << 62, -(1 << 63)):
        message = infer_request(APPEND.name, user_id=user, times=("INT64", [1, length], b""))
        yield Killer(f"times of shape [1, {length}]", message)


def _add_inputs(message: Any) -> None:
    for number in range(_MANY):
        message.inputs.add(name=f"n{number}", datatype="INT64", shape=[1, 1])
        message.raw_input_contents.append(bytes(8))


def _add_outputs(message: Any) -> None:
    for number in range(_MANY):
        message.outputs.add(name=f"n{number}")


def _repeat_input(message: Any) -> None:
    message.inputs.add().CopyFrom(message.inputs[0])
    message.raw_input_contents.append(_USER)


def _share_input(message: Any) -> None:
    del message.raw_input_contents[:]
    message.inputs[0].parameters["shared_memory_region"].string_param = "hytrec_shm"
    message.inputs[0].parameters["shared_memory_byte_size"].int64_param = 1 << 62


def _share_output(message: Any) -> None:
    output = message.outputs.add(name="event_count")
    output.parameters["shared_memory_region"].string_param = "hytrec_shm"
    output.parameters["shared_memory_byte_size"].int64_param = 1 << 62


def _set(path: str, value: object) -> Callable[[Any], None]:
    def spoil(message: Any) -> None:
        setattr(message.inputs[0] if path == "datatype" else message, path, value)

    return spoil


_SPOILED: dict[str, Callable[[Any], None]] = {
    f"{_MANY} inputs": _add_inputs,
    f"{_MANY} outputs": _add_outputs,
    "one input twice": _repeat_input,
    "an input in foreign shared memory": _share_input,
    "an output in foreign shared memory": _share_output,
    "contents of both kinds": lambda message: message.inputs[0].contents.bytes_contents.append(b"a"),
    "more contents than inputs": lambda message: message.raw_input_contents.append(b"a"),
    "no contents": lambda message: message.ClearField("raw_input_contents"),
    "a datatype that is none": _set("datatype", "NONE"),
    "a version that is none": _set("model_version", "99999999999999999999"),
    "a model outside of the repository": _set("model_name", "../../etc"),
    "an id of 10 MB": _set("id", "x" * 10_000_000),
}

_POST = b"POST /v2/models/hytrec_append/infer HTTP/1.1\r\nHost: x\r\n"
HTTP_KILLERS = {
    "JSON of 100,000 levels": _POST + b"Content-Length: 200000\r\n\r\n" + b"[" * 100_000 + b"]" * 100_000,
    "600,000 chunks of one byte": (
        _POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\nA\r\n" * 600_000 + b"0\r\n\r\n"
    ),
    "a compressed body that is none": (
        _POST + b"Content-Encoding: gzip\r\nContent-Length: 10\r\n\r\n\x1f\x8b\x08AAAAAAA"
    ),
    "a body larger than memory": _POST + b"Content-Length: 18446744073709551615\r\n\r\n{",
    "headers of 16 MB": b"GET /metrics HTTP/1.1\r\n" + b"a: " + b"b" * (16 << 20) + b"\r\n\r\n",
}
"""What ended an HTTP endpoint; sent to every port that is open."""


def send_grpc(server: EmbeddedServer, killer: Killer) -> str:
    """Send a request of a kind; the gRPC status code, "OK" where it was answered."""
    grpc = require("grpc", extra="client")
    compression = grpc.Compression.Gzip if killer.compressed else grpc.Compression.NoCompression
    with grpc.insecure_channel(server.grpc_url, options=_UNLIMITED) as channel:
        stream = killer.method == _STREAM
        call = (channel.stream_stream if stream else channel.unary_unary)(
            killer.method, request_serializer=lambda message: message.SerializeToString(), response_deserializer=bytes
        )
        try:
            sent = iter([killer.message]) if stream else killer.message
            reply = call(sent, timeout=TIMEOUT_S, compression=compression)
            for _ in reply if stream else ():
                pass
        except grpc.RpcError as error:
            return str(error.code().name)
    return "OK"


def send_bytes(address: str, data: bytes) -> None:
    """Send bytes to a port (host:port) and read until it closes, or says nothing more for a second."""
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=TIMEOUT_S) as connection, suppress(OSError):
        connection.sendall(data)
        connection.settimeout(1.0)
        while connection.recv(1 << 16):
            pass
