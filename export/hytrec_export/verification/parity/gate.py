"""The parity gate: the exported graphs' outputs equal PyTorch's within `atol`, or the build fails."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from hytrec.data.histories import History
from hytrec.modeling.delta_rule import chunked
from hytrec.modeling.model import HyTRec
from hytrec.signature import GRAPHS, RETRIEVER
from hytrec_export.exporters.wrapper import CatalogueScores, split
from hytrec_export.options import Retrieval, Samples
from hytrec_export.progress import Advance, ignore
from hytrec_export.runtime.item_vectors import with_lookups
from hytrec_export.runtime.model_chain import ModelChain
from hytrec_export.runtime.runners import OnnxRunner, TorchRunner
from hytrec_export.settings import ServingSettings
from hytrec_export.verification.parity.cases import RuntimePair, compare_batched, compare_shape_case, compare_streamed
from hytrec_export.verification.parity.comparator import Comparator, ParityReport
from hytrec_export.verification.parity.golden import CATALOGUE_SCORES, GoldenCase, compare, record_golden
from hytrec_export.verification.parity.shape_grid import InputGenerator, corners

MADE_UP_EVENTS = 130
SYNTHETIC_EVENTS = (0, 1, 2, 3, 5, 10, 20, 40, 63, 64, 65, 100, 130, 250, 500, 1_000)
"""Lengths of the histories that stand in for users' where a repository is to hold none."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ParityResult:
    """Outcome of the gate.

    Args:
        golden: PyTorch's outputs, to store in the repository.
        report: how far the graphs were from them.
    """

    golden: list[GoldenCase]
    report: ParityReport


def case_count(samples: int, settings: ServingSettings) -> int:
    """Approximate number of cases that `check_parity` reports, for a progress bar."""
    return len(corners(settings.checked_limits)) + 2 * samples


def check_parity(
    model: HyTRec,
    samples: Sequence[History],
    graphs: Mapping[str, Path],
    *,
    settings: ServingSettings,
    atol: float,
    retrieval: Retrieval = Retrieval.EXACT,
    stored: Samples = Samples.REAL,
    on_case: Advance = ignore,
) -> ParityResult:
    """Compare the graphs with PyTorch: on a grid of sizes, on real histories, streamed and batched.

    Args:
        samples: real histories.
        graphs: .onnx files by model name.
        retrieval: of the graphs. PyTorch's is exact; what an approximate one finds has to be in the same order.
        stored: whose golden outputs are to be stored: of `samples`, or of synthetic histories, which are compared too.
        on_case: called with the number of cases just done.

    Raises:
        ParityError: some difference is over `atol`.
    """
    limits = settings.checked_limits
    comparator = Comparator(on_case=on_case, approximate=retrieval is Retrieval.APPROXIMATE)
    generator = InputGenerator(settings, behaviors=model.behavior_table.num_embeddings - 1)
    with ExitStack() as stack:
        runtimes = _opened(model, graphs, settings, stack)
        for case in corners(limits):
            compare_shape_case(runtimes, generator, case, comparator)
        golden = record_golden(runtimes.reference, runtimes.catalogue, samples, limits=limits, on_answer=on_case)
        compare(runtimes.candidate, golden, limits=limits, meter=comparator)
        made_up = [generator.history(MADE_UP_EVENTS), generator.history(0), *generator.habits(MADE_UP_EVENTS)]
        chosen = golden + record_golden(runtimes.reference, runtimes.catalogue, made_up, limits=limits)
        compare_streamed(runtimes.candidate, chosen, max_events=limits.max_events, comparator=comparator)
        compare_batched(runtimes.candidate, chosen, limits=limits, comparator=comparator)
        if stored is Samples.SYNTHETIC:
            synthetic = [generator.history(events) for events in SYNTHETIC_EVENTS]
            golden = record_golden(runtimes.reference, runtimes.catalogue, synthetic, limits=limits)
            compare(runtimes.candidate, golden, limits=limits, meter=comparator)
    report = comparator.result()
    report.check(atol, subject="the exported model")
    return ParityResult(golden=golden, report=report)


def _opened(model: HyTRec, graphs: Mapping[str, Path], settings: ServingSettings, stack: ExitStack) -> RuntimePair:
    modules = split(model, delta_rule=chunked)

    def torch_runner(module: nn.Module, inputs: Sequence[str], outputs: Sequence[str]) -> TorchRunner:
        return stack.enter_context(TorchRunner(module, input_names=inputs, output_names=outputs))

    reference = {
        graph.name: torch_runner(modules[graph.name], graph.input_names(), graph.output_names()) for graph in GRAPHS
    }
    folder = next(iter(graphs.values())).parent
    runners = with_lookups({name: OnnxRunner(path) for name, path in graphs.items()}, folder, settings)
    candidate = {name: stack.enter_context(runner) for name, runner in runners.items()}
    return RuntimePair(
        reference=ModelChain(reference, sizes=settings.sizes),
        catalogue=torch_runner(CatalogueScores(model=model), RETRIEVER.input_names()[:-1], [CATALOGUE_SCORES]),
        candidate=ModelChain(candidate, sizes=settings.sizes),
    )
