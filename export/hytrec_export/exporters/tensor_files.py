"""Tensor files: large weights stand beside the graphs, once for all that read them, and are memory-mapped.

They are ONNX external data. A file is named after the tensor's content, so graphs in one folder share it; a path of
external data must not leave its graph's folder, so graphs in different folders share it by hard links.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hytrec_export.optional import require

LARGE_BYTES = 1 << 20
"""Weights of this many bytes stand in a file of their own: item tables, neighbors; a layer of usual width does not."""
SUFFIX = ".tensor"
_BLOCK_BYTES = 1 << 24
_NAME_DIGITS = 12


class TensorFiles:
    """Writes the tensors of graphs that stand in one folder, each content once.

    Args:
        folder: of the graphs.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._written: dict[tuple[int, int, str], tuple[str, NDArray[Any]]] = {}

    def write(self, name: str, values: NDArray[Any]) -> str:
        """Name of the file that holds `values`; it is written unless the folder has one of the same content.

        Args:
            name: of the tensor; the file's begins with it.
        """
        values = np.ascontiguousarray(values)
        key = (values.ctypes.data, values.nbytes, values.dtype.str)
        if key not in self._written:  # the array is held, or another might come to stand in its place
            self._written[key] = self._write(name, values), values
        return self._written[key][0]

    def _write(self, name: str, values: NDArray[Any]) -> str:
        content, digest = values.data.cast("B"), hashlib.sha256()
        descriptor, temporary = tempfile.mkstemp(dir=self._folder)
        with os.fdopen(descriptor, "wb") as file:
            for start in range(0, len(content), _BLOCK_BYTES):
                block = content[start : start + _BLOCK_BYTES]
                digest.update(block)
                file.write(block)
        Path(temporary).chmod(0o644)
        digits = digest.hexdigest()[:_NAME_DIGITS]
        path = next(self._folder.glob(f"*.{digits}{SUFFIX}"), self._folder / f"{name}.{digits}{SUFFIX}")
        Path(temporary).replace(path)
        return path.name


def leave_out(program: Any, names: frozenset[str]) -> None:
    """Drop the content of large initializers from a traced program (an `onnx_ir.Model`), in place.

    Each becomes external data whose location is its own name; `attach` names its file.

    Args:
        names: initializers that may be left out.
    """
    ir = require("onnx_ir", extra="export")
    for name, value in program.graph.initializers.items():
        tensor = value.const_value
        if name in names and tensor.nbytes >= LARGE_BYTES:
            value.const_value = ir.ExternalTensor(
                name, 0, tensor.nbytes, tensor.dtype, shape=tensor.shape, name=name, base_dir=""
            )


def attach(
    graph: Any, files: TensorFiles, values: Mapping[str, NDArray[Any]], *, always: frozenset[str] = frozenset()
) -> None:
    """Write the large initializers of a graph (an `onnx.ModelProto`) to files, and name those in it, in place.

    Args:
        values: content of those that `leave_out` dropped.
        always: initializers that go to files however small they are.
    """
    onnx = require("onnx", extra="export")
    for tensor in graph.graph.initializer:
        if is_external(tensor):
            content = values[tensor.name]
        elif (content := onnx.numpy_helper.to_array(tensor)).nbytes < LARGE_BYTES and tensor.name not in always:
            continue
        set_file(tensor, files.write(tensor.name.removeprefix("model."), content))


def set_file(tensor: Any, name: str) -> None:
    """Name the file of a tensor (an `onnx.TensorProto`) that is external data, in place."""
    onnx = require("onnx", extra="export")
    size = int(np.prod(tensor.dims)) * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    tensor.ClearField("raw_data")
    tensor.ClearField("external_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in {"location": name, "offset": 0, "length": size}.items():
        tensor.external_data.add(key=key, value=str(value))


def external_tensors(graph: Any) -> Iterator[Any]:
    """Initializers of a graph (an `onnx.ModelProto`) that stand in files."""
    return filter(is_external, graph.graph.initializer)


def is_external(tensor: Any) -> bool:
    """Whether a tensor (an `onnx.TensorProto`) stands in a file."""
    return bool(require("onnx", extra="export").external_data_helper.uses_external_data(tensor))


def file_of(tensor: Any) -> str:
    """Name of the file of a tensor that is external data."""
    return next(str(entry.value) for entry in tensor.external_data if entry.key == "location")


def load_graph(path: Path) -> Any:
    """An .onnx file as an `onnx.ModelProto`, without the tensors that stand in files."""
    return require("onnx", extra="export").load(path, load_external_data=False)


def check_without_files(graph: Any) -> None:
    """Run onnx's checker on a graph (an `onnx.ModelProto`) whose tensor files it need not find.

    It refuses files of several names, which is what graphs in different folders share.

    Raises:
        onnx.checker.ValidationError: the graph is not valid.
    """
    onnx = require("onnx", extra="export")
    checked = onnx.ModelProto()
    checked.CopyFrom(graph)
    given = {value.name for value in graph.graph.input}
    for tensor in external_tensors(graph):
        if tensor.name not in given:
            checked.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    kept = [tensor for tensor in graph.graph.initializer if not is_external(tensor)]
    del checked.graph.initializer[:]
    checked.graph.initializer.extend(kept)
    onnx.checker.check_model(checked)


def mapped(tensor: Any, folder: Path) -> NDArray[Any]:
    """Content of a tensor (an `onnx.TensorProto`); of one that stands in a file a read-only view of it.

    Args:
        folder: of its graph.
    """
    onnx = require("onnx", extra="export")
    if not is_external(tensor):
        values: NDArray[Any] = onnx.numpy_helper.to_array(tensor)
        return values
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    return np.memmap(folder / file_of(tensor), dtype=dtype, mode="r", shape=tuple(tensor.dims))


def tensor_files(graphs: Mapping[str, Path]) -> dict[str, tuple[Path, ...]]:
    """Files that graphs read beside their own, by model name."""
    return {
        model: tuple(sorted({path.parent / file_of(tensor) for tensor in external_tensors(load_graph(path))}))
        for model, path in graphs.items()
    }


def take_over(graph: Any, source: Path, folder: Path) -> None:
    """Give the tensor files that a graph (an `onnx.ModelProto`) reads in `source` a name in `folder` too.

    A file that is not in `source` stands in `folder` already.
    """
    for name in {file_of(tensor) for tensor in external_tensors(graph)}:
        if (source / name).exists() and not (folder / name).exists():
            link_or_copy(source / name, folder / name)


def link_or_copy(file: Path, target: Path) -> None:
    """Give a file a second name, which costs nothing; a copy where the file system has no links."""
    try:
        target.hardlink_to(file)
    except OSError:
        shutil.copyfile(file, target)
