"""Mutated requests by the thousand, from a seed: whatever they are, the server must be the same process afterwards."""

from __future__ import annotations

import json
import random
import socket
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from math import prod
from typing import Any

from hytrec.signature import APPEND, FORGET, FUSED, FUSED_APPEND, RANK, RECOMMEND
from hytrec_benchmarks.faults.killer_requests import grpc_killers, infer_request
from hytrec_benchmarks.faults.outsiders import service_methods
from hytrec_export.optional import require

THREADS = 4
TIMEOUT_S = 30.0
_MAX_SEED_BYTES = 4_096
_MAX_CHANGES = 6
_FIELDS_SHARE = 0.7
"""Of the requests whose fields are changed, not bytes: most of those are no message any more."""
_SERVICE = "/inference.GRPCInferenceService/"
_OVERFLOWING = 1 << 58
"""Elements of a tensor from which its size in bytes may overflow: known, see `overflowing_killers`."""
_NUMBERS = (0, 1, 127, 128, 255, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 40, (1 << 63) - 1, (1 << 64) - 1)
_HTTP_SILENCE_S = 0.2


def grpc_seeds() -> list[tuple[str, bytes]]:
    """Method and message of sound requests, and of the small ones among the killers."""
    user = ("BYTES", [1, 1], b"\6\0\0\0fuzzed")
    events = {
        "item_keys": ("INT64", [1, 2], bytes(16)),
        "times": ("INT64", [1, 2], b"\1" + bytes(7) + b"\2" + bytes(7)),
    }
    sound = [
        infer_request(APPEND.name, user_id=user, **events),
        infer_request(RANK.name, user_id=user, candidate_keys=("INT64", [1, 1], bytes(8)), **events),
        infer_request(RECOMMEND.name, user_id=user, top_k=("INT64", [1, 1], b"\3" + bytes(7))),
        infer_request(FORGET.name, user_id=user),
    ]
    messages = [*sound * 5, *(killer.message for killer in grpc_killers())]
    inference = [message.SerializeToString() for message in messages]
    seeds = [(f"{_SERVICE}ModelInfer", data) for data in inference if len(data) <= _MAX_SEED_BYTES]
    seeds += [(f"{_SERVICE}ModelStreamInfer", data) for _, data in seeds[:20]]
    name = b"\x0a\x0d" + APPEND.name.encode()  # the field `name` of the requests about one model
    return seeds + [(method, name) for method in service_methods() if not method.endswith("Infer")]


def mutated(data: bytes, others: Sequence[bytes], generator: random.Random) -> bytes:
    """The same bytes with a few random changes: flipped bits, numbers, cuts, repeats, parts of others."""
    changed = bytearray(data)
    for _ in range(generator.randint(1, _MAX_CHANGES)):
        at = generator.randrange(len(changed) + 1)
        end = min(len(changed), at + generator.choice((1, 1, 2, 4, 8, 32)))
        kind = generator.randrange(6)
        if kind == 0 and at < len(changed):
            changed[at] ^= 1 << generator.randrange(8)
        elif kind == 1:
            changed[at:end] = generator.randbytes(end - at)
        elif kind == 2:
            changed[at:at] = _varint(generator.choice(_NUMBERS))
        elif kind == 3:
            del changed[at:end]
        elif kind == 4:
            changed[at:at] = changed[at:end] * generator.randint(1, 20)
        else:
            other = generator.choice(others)
            start = generator.randrange(len(other) + 1)
            changed[at:at] = other[start : start + 64]
    return bytes(changed)


def mutated_fields(data: bytes, others: Sequence[bytes], generator: random.Random) -> bytes:
    """A ModelInferRequest with a few of its fields changed, so that it is still one."""
    messages: Any = require("tritonclient.grpc.service_pb2", extra="client")
    message = messages.ModelInferRequest.FromString(data)
    for _ in range(generator.randint(1, 3)):
        tensor = generator.choice(message.inputs) if message.inputs else message.inputs.add(name="user_id")
        number = generator.choice((-1, *_NUMBERS))
        number -= (1 << 64) if number >= 1 << 63 else 0
        kind = generator.randrange(8)
        if kind == 0:
            tensor.shape[:] = [*tensor.shape, number][-generator.randint(1, 4) :]
        elif kind == 1 and tensor.shape:
            tensor.shape[generator.randrange(len(tensor.shape))] = number
        elif kind == 2:
            tensor.datatype = generator.choice(("BYTES", "INT64", "FP32", "BOOL", "UINT8", "BF16", "", "X" * 99))
        elif kind == 3 and message.raw_input_contents:
            place = generator.randrange(len(message.raw_input_contents))
            message.raw_input_contents[place] = mutated(message.raw_input_contents[place], others, generator)
        elif kind == 4:
            output = message.outputs.add(name=generator.choice(("event_count", "scores", "recommended_keys", "none")))
            parameter = generator.choice(("classification", "binary_data", "shared_memory_region", "x"))
            output.parameters[parameter].int64_param = number
        elif kind == 5:
            parameter = generator.choice(("sequence_id", "sequence_start", "sequence_end", "priority", "timeout", "x"))
            setattr(message.parameters[parameter], *generator.choice((("int64_param", number), ("bool_param", True))))
        elif kind == 6:
            added = messages.ModelInferRequest.FromString(generator.choice(others))
            message.inputs.extend(added.inputs)
            message.raw_input_contents.extend(added.raw_input_contents)
        else:
            message.model_name = generator.choice((APPEND, RANK, RECOMMEND, FORGET, FUSED, FUSED_APPEND)).name
    return bytes(message.SerializeToString())


def fuzz_grpc(url: str, *, requests: int, seed: int) -> Counter[str]:
    """Send so many mutated messages; how often each gRPC status came back ("OK" too).

    Args:
        url: of a server without TLS and token.
    """
    seeds = grpc_seeds()
    others = [data for _, data in seeds]
    requests_alone = [data for method, data in seeds if method.endswith("Infer")]
    grpc = require("grpc", extra="client")

    def worker(number: int) -> Counter[str]:
        generator = random.Random(f"{seed} {number}")  # noqa: S311 - the same requests from the same seed
        codes: Counter[str] = Counter()
        with grpc.insecure_channel(url) as channel:
            while codes.total() < requests // THREADS:
                method, data = generator.choice(seeds)
                infers = method.endswith("Infer")
                if infers and generator.random() < _FIELDS_SHARE:
                    message = mutated_fields(data, requests_alone, generator)
                else:
                    message = mutated(data, others, generator)
                if infers and is_known(message):
                    continue
                codes[_call(grpc, channel, method, message)] += 1
        return codes

    return _in_threads(worker)


def is_known(message: bytes) -> bool:
    """Whether a message has a tensor whose size in bytes may overflow."""
    try:
        request = require("tritonclient.grpc.service_pb2", extra="client").ModelInferRequest.FromString(message)
    except require("google.protobuf.message", extra="client").DecodeError:
        return False
    return any(
        abs(prod(tensor.shape)) >= _OVERFLOWING or any(abs(axis) >= _OVERFLOWING for axis in tensor.shape)
        for tensor in request.inputs
    )


def fuzz_http(address: str, *, requests: int, seed: int) -> Counter[str]:
    """Send so many mutated HTTP requests to a server's HTTP port; how often each status line came back.

    Args:
        address: host:port.
    """
    seeds = _http_seeds()
    host, _, port = address.rpartition(":")

    def worker(number: int) -> Counter[str]:
        generator = random.Random(f"{seed} {number}")  # noqa: S311
        statuses: Counter[str] = Counter()
        while statuses.total() < requests // THREADS:
            data = mutated(generator.choice(seeds), seeds, generator)
            answer = b""
            with suppress(OSError), socket.create_connection((host, int(port)), timeout=TIMEOUT_S) as connection:
                connection.sendall(data)
                connection.settimeout(_HTTP_SILENCE_S)
                answer = connection.recv(1 << 12)
            statuses[answer[9:12].decode("latin-1") or "none"] += 1
        return statuses

    return _in_threads(worker)


def _http_seeds() -> list[bytes]:
    user = {"name": "user_id", "shape": [1, 1], "datatype": "BYTES", "data": ["fuzzed"]}
    times = {"name": "times", "shape": [1, 1], "datatype": "INT64", "data": [5]}
    keys = {"name": "item_keys", "shape": [1, 1], "datatype": "INT64", "data": [5]}
    bodies = [
        json.dumps({"id": "a", "inputs": [user, times, keys], "outputs": [{"name": "event_count"}]}).encode(),
        json.dumps({"parameters": {"sequence_id": 1, "timeout": 5}, "inputs": [user]}).encode(),
    ]
    seeds = [
        b"POST /v2/models/%s/infer HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n%s\r\n%s"
        % (model.encode(), len(body), extra, body)
        for model in (APPEND.name, RECOMMEND.name, FORGET.name)
        for body in bodies
        for extra in (b"", b"Inference-Header-Content-Length: %d\r\n" % len(body))
    ]
    paths = ("", "/health/ready", "/models/hytrec_append", "/models/hytrec_append/config", "/models/hytrec_rank/stats")
    return seeds + [b"GET /v2%s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" % path.encode() for path in paths]


def _call(grpc: Any, channel: Any, method: str, message: bytes) -> str:
    stream = method.endswith("StreamInfer")
    call = (channel.stream_stream if stream else channel.unary_unary)(
        method, request_serializer=bytes, response_deserializer=bytes
    )
    try:
        reply = call(iter([message]) if stream else message, timeout=TIMEOUT_S)
        for _ in reply if stream else ():
            pass
    except grpc.RpcError as error:
        return str(error.code().name)
    return "OK"


def _in_threads(worker: Callable[[int], Counter[str]]) -> Counter[str]:
    with ThreadPoolExecutor(THREADS) as threads:
        return sum(threads.map(worker, range(THREADS)), Counter())


def _varint(number: int) -> bytes:
    """A number as protobuf writes it."""
    parts = bytearray()
    while number > 0x7F:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*parts, number])
