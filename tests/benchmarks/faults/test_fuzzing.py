"""Mutations: the same from the same seed, many of them still requests, and none of the known kind."""

from __future__ import annotations

import random
from typing import Any

import pytest

from hytrec.signature import APPEND
from hytrec_benchmarks.faults.fuzzing import _varint, grpc_seeds, is_known, mutated, mutated_fields
from hytrec_benchmarks.faults.killer_requests import infer_request, overflowing_killers
from hytrec_export.optional import require

messages: Any = require("tritonclient.grpc.service_pb2", extra="client")
SEEDS = [data for method, data in grpc_seeds() if method.endswith("Infer")]


@pytest.mark.parametrize("mutate", [mutated, mutated_fields])
def test_the_same_seed_makes_the_same_requests(mutate: Any) -> None:
    first, second, other = (
        [mutate(data, SEEDS, generator) for data in SEEDS] for generator in map(random.Random, "aab")
    )
    assert first == second != other
    assert sum(made != data for made, data in zip(first, SEEDS, strict=True)) > 0.9 * len(SEEDS)


def test_requests_whose_fields_are_changed_are_requests_still() -> None:
    generator = random.Random(3)
    made = [messages.ModelInferRequest.FromString(mutated_fields(data, SEEDS, generator)) for data in SEEDS * 3]
    shapes = {axis for message in made for tensor in message.inputs for axis in tensor.shape}
    assert min(shapes) < 0
    assert max(shapes) > 1 << 40
    assert len({message.model_name for message in made}) >= 5


def test_tensors_whose_size_overflows_are_known_and_left_out() -> None:
    assert all(is_known(killer.message.SerializeToString()) for killer in overflowing_killers())
    wide = infer_request(APPEND.name, times=("INT64", [1 << 30, 1 << 30], b""))
    assert is_known(wide.SerializeToString())
    assert not is_known(infer_request(APPEND.name, times=("INT64", [1, 1 << 40], b"")).SerializeToString())
    assert not is_known(b"\xff\xff no message")


@pytest.mark.parametrize(("number", "written"), [(0, b"\0"), (127, b"\x7f"), (128, b"\x80\x01"), (300, b"\xac\x02")])
def test_numbers_are_written_as_protobuf_does(number: int, written: bytes) -> None:
    assert _varint(number) == written
