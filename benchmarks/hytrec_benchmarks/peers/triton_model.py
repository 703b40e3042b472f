"""A peer in Triton's python backend; `1/model.py` of its repository is a shim into this module."""

from __future__ import annotations

import locale
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hytrec.contract import Model
from hytrec.run_folder import load_run
from hytrec_benchmarks.peers.queries import Peer, Scorer
from hytrec_benchmarks.peers.repository import KIND_FILE, MODEL, RUN_FOLDER, PeerKind
from hytrec_export.exporters.reranker_parts import trim_reranker
from hytrec_export.options import RerankerKind
from hytrec_export.serving.triton_models.responses import respond, tensors_of
from hytrec_export.serving.triton_models.startup import settings_of, starting, vocabulary_of


class TritonPythonModel:
    """Answers appends and rankings from whole histories."""

    @starting
    def initialize(self, args: dict[str, str]) -> None:
        """Open the model."""
        settings = settings_of(args)
        folder = Path(args["model_repository"]) / args["model_version"]
        kind = PeerKind((folder / KIND_FILE).read_text())
        self._model: Model = MODEL
        self._peer = Peer(settings=settings, vocabulary=vocabulary_of(args), scorer=_scorer(kind, folder))

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer one server batch."""
        return respond(requests, self._peer.answer, model=self._model, read=tensors_of)


def _scorer(kind: PeerKind, folder: Path) -> Scorer:
    if kind is PeerKind.SOFTMAX:
        from hytrec_benchmarks.peers.softmax import softmax_scorer  # noqa: PLC0415  a process loads what it runs

        return softmax_scorer(folder)
    from hytrec_benchmarks.peers.encoders import encoding_scorer  # noqa: PLC0415

    if kind is PeerKind.COMPILED:
        # Triton's stub leaves the locale at C, and torch 2.13 opens sources of its own that are not ASCII.
        locale.setlocale(locale.LC_CTYPE, "C.UTF-8")
    run = load_run(folder / RUN_FOLDER)
    trim_reranker(run, RerankerKind.FULL)  # as every build does
    return encoding_scorer(run.model, sizes=run.config.sizes(), compiled=kind is PeerKind.COMPILED)
