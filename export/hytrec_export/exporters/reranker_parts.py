"""What of a run's reranker is exported, and what each part gains and costs."""

from __future__ import annotations

from typing import Any

from hytrec.documents import document_from
from hytrec.errors import ConfigError
from hytrec.modeling.model import HyTRec
from hytrec.modeling.reranker import RerankerPart
from hytrec.modeling.reranker_gains import FittedReranker, Gain
from hytrec.run_folder import Run
from hytrec_export.errors import OptionError
from hytrec_export.options import RerankerKind

__all__ = ["trim_reranker"]


def trim_reranker(run: Run, kind: RerankerKind) -> dict[str, Any] | None:
    """Leave parts out of the run's model, in place: those that change no score, and those that `kind` says.

    Where no weight made rankings better than none the training weighs the correction 0, and its parts would be
    computed for nothing.

    Returns:
        JSON-able: users that the gains were measured on, their NDCG@10 and, by part, gain, error, multiply-adds for a
        candidate and whether it is exported; None where the run has no such record.

    Raises:
        OptionError: lean is asked for, and the run does not say what the parts gain.
    """
    reranker = run.model.reranker
    has = [*((RerankerPart.NEIGHBORS,) if run.model.neighbors is not None else ()), *reranker.parts]
    left_out = [] if reranker.corrects() else list(reranker.parts)
    costs = {part: _multiply_adds(run.model, part) for part in has}
    run.model.reranker = reranker.without(*left_out)
    try:
        fitted = document_from(run.training.get("reranker"), FittedReranker)
    except ConfigError as error:
        if kind is RerankerKind.LEAN:
            raise OptionError(
                f"run {run.path} does not say what the parts of its reranker gain ({error}); "
                "train it again, or leave --reranker out"
            ) from error
        return None
    gains = {part: fitted.gains.get(part, Gain(gain=0.0, error=0.0)) for part in has}
    if kind is RerankerKind.LEAN:
        left_out += [part for part in has if part not in left_out and not gains[part].is_clear]
    if {RerankerPart.MEMORY, RerankerPart.WINDOW}.isdisjoint(set(has) - set(left_out)):
        left_out.append(RerankerPart.EXPERTS)  # there is nothing for them to work on
    run.model.reranker = reranker.without(*left_out)
    if RerankerPart.NEIGHBORS in left_out:
        run.model.neighbors = None
    parts = {
        part.value: {
            "gain": gains[part].gain,
            "error": gains[part].error,
            "multiply_adds": costs[part],
            "exported": part not in left_out,
        }
        for part in has
    }
    return {"users": fitted.users, "ndcg@10": fitted.ndcg, "parts": parts}


def _multiply_adds(model: HyTRec, part: RerankerPart) -> int:
    """Multiply-adds of a part for a candidate; what it computes once for a user is left out."""
    width = model.width
    if part is RerankerPart.NEIGHBORS:
        return 2 * model.neighbors.ids.shape[1] if model.neighbors is not None else 0
    if part is RerankerPart.MEMORY:
        return width * 2 * width  # query, and the product with memory and read
    if part is RerankerPart.WINDOW:
        return width * 2 * model.heads * (model.window + 1)  # the products with queried keys, and with values
    mixture = model.reranker.mixture
    return width * mixture.experts * (2 * mixture.hidden + 1)
