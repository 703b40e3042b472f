"""The parity gate: a build answers as PyTorch does, or there is no build."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from hytrec.data.histories import History
from hytrec.modeling.delta_rule import chunked
from hytrec.modeling.model import HyTRec
from hytrec.signature import GRAPHS, RETRIEVER
from hytrec_export.exporters.wrapper import CatalogueScores, split
from hytrec_export.progress import Advance, ignore
from hytrec_export.runtime.model_chain import ModelChain
from hytrec_export.runtime.runners import OnnxRunner, TorchRunner
from hytrec_export.settings import ServingSettings
from hytrec_export.verification.parity.cases import RuntimePair, compare_batched, compare_corner, compare_streamed
from hytrec_export.verification.parity.comparator import Comparator, ParityReport
from hytrec_export.verification.parity.golden import CATALOGUE_SCORES, GoldenCase, compare, record_golden
from hytrec_export.verification.parity.shape_grid import InputGenerator, corners

MADE_UP_EVENTS = 130


@dataclass(frozen=True, kw_only=True, eq=False)
class ParityResult:
    """What the gate asked PyTorch, and how far the graphs were from it."""

    answers: list[GoldenCase]
    differences: ParityReport


def case_count(samples: int, settings: ServingSettings) -> int:
    """How many cases `check_parity` reports while it has most of its work before it, for a progress bar."""
    return len(corners(settings.limits)) + 2 * samples


def check_parity(
    model: HyTRec,
    samples: Sequence[History],
    graphs: Mapping[str, Path],
    *,
    settings: ServingSettings,
    atol: float,
    on_case: Advance = ignore,
) -> ParityResult:
    """Compare the graphs with PyTorch: on a grid of sizes, on real histories, streamed and batched.

    Args:
        samples: real histories.
        graphs: .onnx files by model name.
        on_case: told how many cases are done just now.

    Raises:
        ParityError: some difference is over `atol`.
    """
    limits = settings.limits
    meter = Comparator(on_case=on_case)
    maker = InputGenerator(settings, behaviors=model.behavior_table.num_embeddings - 1)
    with ExitStack() as stack:
        sides = _opened(model, graphs, settings, stack)
        for corner in corners(limits):
            compare_corner(sides, maker, corner, meter)
        answers = record_golden(sides.reference, sides.catalogue, samples, limits=limits, on_answer=on_case)
        compare(sides.candidate, answers, limits=limits, meter=meter)
        made_up = [maker.history(MADE_UP_EVENTS), maker.history(0), *maker.habits(MADE_UP_EVENTS)]
        chosen = answers + record_golden(sides.reference, sides.catalogue, made_up, limits=limits)
        compare_streamed(sides.candidate, chosen, max_events=limits.max_events, meter=meter)
        compare_batched(sides.candidate, chosen, limits=limits, meter=meter)
    differences = meter.result()
    differences.check(atol, subject="the build")
    return ParityResult(answers=answers, differences=differences)


def _opened(model: HyTRec, graphs: Mapping[str, Path], settings: ServingSettings, stack: ExitStack) -> RuntimePair:
    modules = split(model, delta_rule=chunked)
    torch_runners = {
        served.name: TorchRunner(
            modules[served.name], input_names=served.input_names(), output_names=served.output_names()
        )
        for served in GRAPHS
    }
    catalogue = TorchRunner(
        CatalogueScores(model=model), input_names=RETRIEVER.input_names()[:-1], output_names=[CATALOGUE_SCORES]
    )
    onnx_runners = {name: OnnxRunner(path) for name, path in graphs.items()}
    return RuntimePair(
        reference=ModelChain({n: stack.enter_context(r) for n, r in torch_runners.items()}, sizes=settings.sizes),
        catalogue=stack.enter_context(catalogue),
        candidate=ModelChain({n: stack.enter_context(r) for n, r in onnx_runners.items()}, sizes=settings.sizes),
    )
