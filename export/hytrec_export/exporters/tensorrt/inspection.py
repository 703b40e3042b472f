"""Layers of a compiled engine and their types, by TensorRT's engine inspector.

An engine can be opened only on a GPU that it fits, so that this runs nowhere else; on a machine without one the parsed
network's types stand for the engine's.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from hytrec_export.errors import BuildError
from hytrec_export.exporters.tensorrt.layers import Counts
from hytrec_export.exporters.tensorrt.log import Log
from hytrec_export.options import Precision

_FIELDS = ("Format/Datatype", "DataType", "Format")
"""Where a tensor's type stands: TensorRT 10 has the first, 11 the others."""
_TYPES = {"half": "float16", "fp16": "float16", "float": "float32", "fp32": "float32"}


def count_engine_layers(trt: Any, engine: Path, *, version_compatible: bool) -> Counts:
    """How many layers of each type and dtype an engine has; needs a GPU.

    Args:
        version_compatible: such an engine holds a runtime of its own, which is run to open it.

    Raises:
        BuildError: the engine cannot be opened.
    """
    log = Log(trt)
    runtime = trt.Runtime(log.logger)
    runtime.engine_host_code_allowed = version_compatible
    opened = runtime.deserialize_cuda_engine(engine.read_bytes())
    if opened is None:
        raise BuildError(f"the engine {engine.name} just compiled cannot be opened ({log.reason()}); check the driver")
    text = opened.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
    counted = Counter(_type_and_dtype(layer) for layer in json.loads(text)["Layers"])
    counts: Counts = {}
    for (kind, dtype), number in sorted(counted.items()):
        counts.setdefault(kind, {})[dtype] = number
    return counts


def check_engine_layers(counts: Counts, *, precision: Precision, engine: str) -> None:
    """A mixed engine has float16 layers, a float32 one has none.

    Raises:
        BuildError: it is otherwise.
    """
    half = sum(dtypes.get("float16", 0) for dtypes in counts.values())
    if half and precision is not Precision.MIXED:
        raise BuildError(f"{half} layers of the float32 engine {engine} are float16; report this with the manifest")
    if not half and precision is Precision.MIXED:
        raise BuildError(f"no layer of the float16 engine {engine} is float16; report this with the manifest")


def _type_and_dtype(layer: Any) -> tuple[str, str]:
    """A layer is a name alone where the engine was built without details."""
    if isinstance(layer, str):
        return "unknown", "unknown"
    words = {
        word.lower().rstrip(",")
        for tensor in (*layer.get("Inputs", ()), *layer.get("Outputs", ()))
        for field in _FIELDS
        for word in str(tensor.get(field, "")).split()
    }
    dtypes = {_TYPES[word] for word in words if word in _TYPES}
    return str(layer.get("LayerType", "unknown")).lower(), min(dtypes, default="other")
