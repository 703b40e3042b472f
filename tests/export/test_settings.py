import json
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tritonclient.grpc import service_pb2
from tritonclient.utils import serialize_byte_tensor

from hytrec.contract import DType, Ensemble
from hytrec.signature import ENSEMBLES
from hytrec_clients.codec import TRITON_NAMES
from hytrec_export.errors import OptionError, RepositoryError
from hytrec_export.settings import FILE_NAME, Limits, ServingSettings

pb: Any = service_pb2
serialize: Any = serialize_byte_tensor


def test_settings_come_back_as_they_were_saved(tmp_path: Path, settings: ServingSettings) -> None:
    settings.save(tmp_path)
    assert ServingSettings.load(tmp_path) == settings


def test_key_types_are_the_vocabularys(settings: ServingSettings) -> None:
    assert settings.key_type(DType.ITEM_KEY) is DType.INT64
    assert settings.key_type(DType.BEHAVIOR_KEY) is DType.BYTES
    assert settings.key_type(DType.UINT8) is DType.UINT8


@pytest.mark.parametrize(("items", "most"), [(30, 64), (1 << 18, 64), (1_000_000, 16), (1 << 24, 1), (1 << 25, 1)])
def test_checks_of_large_catalogues_run_fewer_users_at_once(settings: ServingSettings, items: int, most: int) -> None:
    checked = replace(settings, items=items, limits=Limits(max_batch=64)).checked_limits
    assert checked == Limits(max_batch=most)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        RepositoryError, match=r"serving.json is missing; build the repository with: hytrec-export build"
    ):
        ServingSettings.load(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format_version": 1}', '{"format_version": 1, "fingerprint": 3}'])
def test_a_damaged_file_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE_NAME).write_text(text)
    with pytest.raises(RepositoryError, match=r"serving.json is damaged \(.*\); build the repository again$"):
        ServingSettings.load(tmp_path)


def test_another_format_version_is_refused(tmp_path: Path, settings: ServingSettings) -> None:
    settings.save(tmp_path)
    values = json.loads((tmp_path / FILE_NAME).read_text())
    (tmp_path / FILE_NAME).write_text(json.dumps(values | {"format_version": 7}))
    with pytest.raises(RepositoryError, match=r"serving.json has format version 7; this hytrec-export reads 1"):
        ServingSettings.load(tmp_path)


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("max_events", 0, "1 to 1,048,576"),
        ("max_events", 1_048_577, "1 to 1,048,576"),
        ("max_candidates", 65_537, "1 to 65,536"),
        ("max_excluded", -1, "0 to 65,536"),
        ("max_excluded", 65_537, "0 to 65,536"),
        ("max_batch", 1_025, "1 to 1,024"),
    ],
)
def test_a_limit_out_of_its_range_is_rejected(name: str, value: int, allowed: str) -> None:
    with pytest.raises(OptionError, match=rf"^{name} is {value}; it must be {allowed}$"):
        Limits(**{name: value})


def _request_bytes(settings: ServingSettings, endpoint: Ensemble) -> int:
    """Size of the largest request of an endpoint, as tritonclient encodes it."""
    limits = settings.limits
    lengths = {"T": limits.max_events, "N": limits.max_candidates, "X": limits.max_excluded}
    request = pb.ModelInferRequest(model_name=endpoint.name, id="x" * 64)
    for tensor in endpoint.inputs:
        dtype = settings.key_type(tensor.dtype)
        shape = [1, *(axis if isinstance(axis, int) else lengths[axis] for axis in tensor.axes)]
        strings = np.array([b"k" * 256] * prod(shape), object).reshape(shape)
        raw = serialize(strings).item() if dtype is DType.BYTES else np.ones(shape, dtype.value).tobytes()
        request.inputs.add(name=tensor.name, datatype=TRITON_NAMES[dtype], shape=shape)
        request.raw_input_contents.append(raw)
    for tensor in endpoint.outputs:
        request.outputs.add(name=tensor.name)
    return int(request.ByteSize())


@pytest.mark.parametrize("keys", [DType.INT64, DType.BYTES])
def test_no_valid_request_is_larger_than_the_settings_say(settings: ServingSettings, keys: DType) -> None:
    settings = replace(settings, item_key_type=keys, behavior_key_type=keys, limits=Limits())
    largest = max(_request_bytes(settings, endpoint) for endpoint in ENSEMBLES)
    assert largest <= settings.max_request_bytes() < largest + (1 << 16)


def test_the_largest_limits_stay_below_the_largest_grpc_message(settings: ServingSettings) -> None:
    limits = Limits(max_events=1 << 20, max_candidates=1 << 16, max_excluded=1 << 16, max_batch=1 << 10)
    strings = replace(settings, item_key_type=DType.BYTES, behavior_key_type=DType.BYTES, limits=limits)
    assert strings.max_request_bytes() < 2**31 // 3


def test_a_limit_of_zero_in_the_file_is_damage(tmp_path: Path, settings: ServingSettings) -> None:
    settings.save(tmp_path)
    text = (tmp_path / FILE_NAME).read_text()
    (tmp_path / FILE_NAME).write_text(text.replace('"max_batch": 16', '"max_batch": 0'))
    with pytest.raises(RepositoryError, match=r"damaged \(max_batch is 0; it must be 1 to 1,024\)"):
        ServingSettings.load(tmp_path)
