"""Tables that change while they are served: inputs of their graphs, which the server feeds its own copy-on-write maps.

They keep their content as defaults, so a graph runs without them, as at its build.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hytrec_export.errors import BuildError
from hytrec_export.exporters.tensor_files import (
    TensorFiles,
    check_without_files,
    file_of,
    is_external,
    load_graph,
    set_file,
    take_over,
)
from hytrec_export.optional import require

ITEM_TABLE = "model.item_table.weight"
PRODUCT_MASK = "model.catalogue_product.mask"
TABLE_ROLES = {
    ITEM_TABLE: "items",
    f"{ITEM_TABLE}_narrow": "items",
    f"{ITEM_TABLE}_blocks": "items",
    f"{ITEM_TABLE}_scales": "item_scales",
    "model.neighbors.ids": "neighbor_ids",
    "model.neighbors.weights": "neighbor_weights",
    "model.neighbors.weights_narrow": "neighbor_weights",
    PRODUCT_MASK: "mask",
    "scan.codes": "codes",
    "scan.scales": "code_scales",
    "scan.offsets": "code_offsets",
}
"""What the initializers that change are, by name."""


def make_live(graphs: Mapping[str, Path], folder: Path) -> tuple[dict[str, Path], dict[str, Any]]:
    """Write graphs again with the tables that change as inputs, each in a file: the new files in `folder` by name.

    Args:
        graphs: .onnx files by model name.
        folder: is made.

    Returns:
        The files, and by model name the tables: file, role, dtype and shape of every initializer.

    Raises:
        BuildError: a graph does not read the item table where it is expected.
    """
    onnx = require("onnx", extra="export")
    folder.mkdir()
    files, paths = TensorFiles(folder), {}
    tables: dict[str, dict[str, Any]] = {}
    for model, source in graphs.items():
        graph = load_graph(source)
        given = {value.name for value in graph.graph.input}
        tables[model] = {}
        take_over(graph, source.parent, folder)
        for tensor in graph.graph.initializer:
            role = TABLE_ROLES.get(tensor.name)
            if role is None:
                continue
            if not is_external(tensor):
                set_file(tensor, files.write(tensor.name.removeprefix("model."), onnx.numpy_helper.to_array(tensor)))
            if tensor.name not in given:
                graph.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
            tables[model][tensor.name] = {
                "file": file_of(tensor),
                "role": role,
                "dtype": onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).name,
                "shape": list(tensor.dims),
            }
        if "items" not in {table["role"] for table in tables[model].values()}:
            raise BuildError(
                f"{model} has no item table among its initializers, so that no items can be added to it; bring "
                "hytrec_export.exporters.live_tables in line with the model, or build with --reserve-items 0"
            )
        check_without_files(graph)
        paths[model] = folder / source.name
        paths[model].write_bytes(graph.SerializeToString())
    return paths, tables


def save_tables(tables: Mapping[str, Any], path: Path) -> None:
    """Write down which tables of a repository change."""
    path.write_text(json.dumps({"format_version": 1, "graphs": tables}, indent=1) + "\n")
