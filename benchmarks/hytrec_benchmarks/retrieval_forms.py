"""Ways to find the best items of a large catalogue on one core: scans inside an ONNX graph beside indexes of faiss.

    python -m hytrec_benchmarks.retrieval_forms --items 1000000

Random rows of width 128, the 500 best of each user vector, all ways in turns; milliseconds are the minimum of all
rounds. faiss is measured where it is installed (`pip install faiss-cpu`). docs/retrieval.md has such a table.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import numpy_helper, parser

from hytrec_benchmarks.fixtures.clock import interleaved_ms

WIDTH, RETRIEVED = 128, 500
BATCHES = (1, 4, 8)
SCALED = "f = Cast <to = 1> (i)  m = Mul (f, scales)"
ROUNDED = """
    abs = Abs (u)  top = ReduceMax <keepdims = 1> (abs, last)  step = Div (top, levels)
    q = Div (u, step)  r = Round (q)  z = Add (r, zero)  codes = Cast <to = 2> (z)
"""
SCANS = {
    "float32 product": "s = MatMul (u, table)",
    "int8, offsets": ROUNDED + "i = MatMulInteger (codes, table)" + SCALED + " s = Sub (m, offsets)",
    "int8, zero point": ROUNDED + "i = MatMulInteger (codes, table, zero_point)" + SCALED + " s = Identity (m)",
    "4 bits": f"s = com.microsoft.MatMulNBits <K = {WIDTH}, N = ITEMS, bits = 4, block_size = {WIDTH}, "
    "accuracy_level = 4> (u, table, scales)",
}
BEST = "v, found = TopK (s, candidates)"
BEST_OF_BLOCKS = """
    blocks = Reshape (s, block_shape)  maxima = ReduceMax <keepdims = 0> (blocks, two)
    w, at = TopK <sorted = 0> (maxima, candidates)  places = Unsqueeze (at, last)
    picked = GatherND <batch_dims = 1> (blocks, places)  flat = Reshape (picked, flat_shape)
    v, near = TopK (flat, candidates)
    block = Div (near, size)  of = GatherElements <axis = 1> (at, block)  start = Mul (of, size)
    rest = Mod (near, size)  found = Add (start, rest)
"""
RESCORED = """
    o, p = TopK <largest = 0> (found, candidates)  rows = Gather (exact, o)  column = Unsqueeze (u, last)
    t = MatMul (rows, column)  e = Squeeze (t, last)  b, c = TopK (e, retrieved)
    best = GatherElements <axis = 1> (o, c)
"""
BLOCK = 64

Search = Callable[[NDArray[np.float32]], NDArray[np.int64]]
"""User vectors (B, D) -> item rows (B, 500)."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print the table; the exit status."""
    options = _parser().parse_args(arguments)
    items = options.items // BLOCK * BLOCK
    random = np.random.default_rng(0)
    table = (random.standard_normal((items, WIDTH), np.float32) / np.sqrt(WIDTH)).astype(np.float32)
    users = {batch: random.standard_normal((batch, WIDTH), np.float32) for batch in BATCHES}
    with tempfile.TemporaryDirectory(prefix="hytrec-forms-") as folder:
        searches = dict(_graphs(table, Path(folder)))
    if find_spec("faiss"):
        searches |= dict(_indexes(table))
    print(f"| {items:,} items | recall@500 | " + " | ".join(f"ms, batch {batch}" for batch in BATCHES) + " |")  # noqa: T201
    print("|---" * (len(BATCHES) + 2) + "|")  # noqa: T201
    taken = {}
    for batch, vectors in users.items():
        ways = {name: (lambda search=search, vectors=vectors: search(vectors)) for name, search in searches.items()}
        taken[batch] = interleaved_ms(ways, rounds=options.rounds, text=f"batch {batch}")
    exact = np.argpartition(-(users[8] @ table.T), RETRIEVED)[:, :RETRIEVED]
    for name, search in searches.items():
        found = np.mean([np.isin(*pair).mean() for pair in zip(exact, search(users[8]), strict=True)])
        cells = " | ".join(f"{min(taken[batch][name]):.1f}" for batch in BATCHES)
        print(f"| {name} | {found:.4f} | {cells} |")  # noqa: T201
    return 0


def _graphs(table: NDArray[np.float32], folder: Path) -> Iterator[tuple[str, Search]]:
    yield "exact", _graph(table, folder, scan="float32 product", best=BEST, candidates=RETRIEVED)
    yield "int8", _graph(table, folder, scan="int8, offsets", best=BEST, candidates=1_000)
    if len(table) >= 1_000 * BLOCK:
        blocks = _graph(table, folder, scan="int8, offsets", best=BEST_OF_BLOCKS, candidates=1_000)
        yield "int8, best blocks first", blocks
    yield (
        "int8, not prepacked",
        _graph(table, folder, scan="int8, offsets", best=BEST, candidates=1_000, prepacked=False),
    )
    yield "int8, zero point", _graph(table, folder, scan="int8, zero point", best=BEST, candidates=1_000)
    yield "4 bits", _graph(table, folder, scan="4 bits", best=BEST, candidates=2_000)


def _graph(
    table: NDArray[np.float32], folder: Path, *, scan: str, best: str, candidates: int, prepacked: bool = True
) -> Search:
    """A graph of a scan, its best rows and their exact scores, in a session of one thread."""
    items = len(table)
    body = SCANS[scan].replace("ITEMS", str(items)) + best + RESCORED
    text = f"""<ir_version: 10, opset_import: ["": 20, "com.microsoft": 1]>
        scan (float[B, {WIDTH}] u) => (int64[B, {RETRIEVED}] best) {{ {body} }}"""
    model = parser.parse_model(text)
    used = {name for node in model.graph.node for name in node.input}
    values = _quantized(table, scan) | {
        "exact": table,
        "last": np.array([-1]),
        "two": np.array([2]),
        "levels": np.float32(63),
        "zero": np.float32(64),
        "zero_point": np.uint8(64),
        "candidates": np.array([candidates]),
        "retrieved": np.array([RETRIEVED]),
        "size": np.array(BLOCK),
        "block_shape": np.array([0, items // BLOCK, BLOCK]),
        "flat_shape": np.array([0, -1]),
    }
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(values[n]), n) for n in used & values.keys())
    path = folder / "graph.onnx"
    onnx.save(model, path, save_as_external_data=True, location="graph.bin")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    if not prepacked:
        options.add_session_config_entry("session.disable_prepacking", "1")
    session = onnxruntime.InferenceSession(path, options)
    for file in folder.iterdir():
        file.unlink()
    return lambda users: session.run(None, {"u": users})[0]


def _quantized(table: NDArray[np.float32], scan: str) -> dict[str, NDArray[Any]]:
    if scan == "float32 product":
        return {"table": np.ascontiguousarray(table.T)}
    largest = np.abs(table).max(1)
    if scan == "4 bits":
        scales = largest / 7.5
        codes = np.clip(np.rint(table / scales[:, None]) + 8, 0, 15).astype(np.uint8)
        return {"table": (codes[:, 0::2] | (codes[:, 1::2] << 4)).reshape(len(table), 1, -1), "scales": scales}
    scales = (largest / 127).astype(np.float32)
    rounded = np.rint(table / scales[:, None]).astype(np.int8)
    offsets = (64 * scales * rounded.sum(1, dtype=np.int32)).astype(np.float32)
    return {"table": np.ascontiguousarray(rounded.T), "scales": scales, "offsets": offsets}


def _indexes(table: NDArray[np.float32]) -> Iterator[tuple[str, Search]]:
    """Indexes of faiss, their candidates scored exactly here."""
    faiss: Any = importlib.import_module("faiss")
    product, eight = faiss.METRIC_INNER_PRODUCT, faiss.ScalarQuantizer.QT_8bit
    lists = 1_024 if len(table) >= 1_000_000 else 256
    quantizer = faiss.IndexFlatIP(WIDTH)
    kinds: list[tuple[str, Any, list[tuple[str, int, dict[str, int]]]]] = [
        ("SQ8 flat", faiss.IndexScalarQuantizer(WIDTH, eight, product), [("", 1_000, {})]),
        ("PQ 64x4 fast scan", faiss.IndexPQFastScan(WIDTH, 64, 4, product), [("", n, {}) for n in (2_000, 10_000)]),
        (
            "IVF SQ8",
            faiss.IndexIVFScalarQuantizer(quantizer, WIDTH, lists, eight, product),
            [(f", {share}% of the lists", 1_000, {"nprobe": lists * share // 100}) for share in (25, 90)],
        ),
    ]
    if len(table) < 200_000:  # it takes a quarter of an hour to build for a million
        graph = faiss.IndexHNSWFlat(WIDTH, 32, product)
        kinds.append(("HNSW 32", graph, [(f", ef {ef}", 1_000, {"efSearch": ef}) for ef in (1_000, 4_000)]))
    for name, index, settings in kinds:
        index.train(table[:100_000])
        index.add(table)
        for more, candidates, parameters in settings:
            yield f"faiss {name}{more}, {candidates:,} rescored", _rescored(index, table, candidates, parameters)
    faiss.omp_set_num_threads(1)


def _rescored(index: Any, table: NDArray[np.float32], candidates: int, parameters: dict[str, int]) -> Search:
    def search(users: NDArray[np.float32]) -> NDArray[np.int64]:
        for name, value in parameters.items():
            setattr(index.hnsw if name == "efSearch" else index, name, value)
        best = []
        for user, rows in zip(users, index.search(users, candidates)[1], strict=True):
            known = np.sort(rows[rows >= 0])
            best.append(known[np.argsort(-(table[known] @ user), kind="stable")[:RETRIEVED]])
        return np.stack(best)

    return search


def _parser() -> argparse.ArgumentParser:
    parser_ = argparse.ArgumentParser(description="Compare ways to find the best items of a large catalogue.")
    parser_.add_argument("--items", type=int, default=1_000_000, help="size of the catalogue, cut to a multiple of 64")
    parser_.add_argument("--rounds", type=int, default=10, help="how often each way runs")
    return parser_


if __name__ == "__main__":
    sys.exit(main())
