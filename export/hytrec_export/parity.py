"""The parity gate: a build answers as PyTorch does, or there is no build."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from hytrec.data import History
from hytrec.delta_rule import chunked
from hytrec.model import HyTRec
from hytrec.signature import GRAPHS, RETRIEVER
from hytrec_export import answers as golden
from hytrec_export.answers import Answer
from hytrec_export.chain import Chain
from hytrec_export.differences import Differences, Meter
from hytrec_export.runners import OnnxRunner, TorchRunner
from hytrec_export.serving import ServingSettings
from hytrec_export.wrapper import CatalogueScores, split


@dataclass(frozen=True, kw_only=True, eq=False)
class Gate:
    """What the gate asked PyTorch, and how far the graphs were from it."""

    answers: list[Answer]
    differences: Differences


def check_parity(
    model: HyTRec,
    samples: Sequence[History],
    graphs: Mapping[str, Path],
    *,
    settings: ServingSettings,
    atol: float,
) -> Gate:
    """Compare the graphs with PyTorch.

    Raises:
        ParityError: they differ by more than `atol`.
    """
    meter = Meter()
    modules = split(model, delta_rule=chunked)
    with ExitStack() as stack:
        torch_runners = {
            served.name: stack.enter_context(
                TorchRunner(
                    modules[served.name], input_names=served.input_names(), output_names=served.output_names()
                )
            )
            for served in GRAPHS
        }
        catalogue = stack.enter_context(
            TorchRunner(
                CatalogueScores(model=model),
                input_names=RETRIEVER.input_names()[:-1],
                output_names=[golden.CATALOGUE_SCORES],
            )
        )
        onnx_runners = {name: stack.enter_context(OnnxRunner(path)) for name, path in graphs.items()}
        reference = Chain(torch_runners, sizes=settings.sizes)
        candidate = Chain(onnx_runners, sizes=settings.sizes)
        answers = golden.ask(reference, catalogue, samples, limits=settings.limits)
        golden.compare(candidate, answers, limits=settings.limits, meter=meter)
    differences = meter.result()
    differences.check(atol, subject="the build")
    return Gate(answers=answers, differences=differences)
