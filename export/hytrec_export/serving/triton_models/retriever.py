"""`hytrec_retriever` in Triton's python backend."""

from __future__ import annotations

from hytrec.signature import RETRIEVER
from hytrec_export.serving.triton_models.step_model import GraphModel


class TritonPythonModel(GraphModel):
    """One graph, one `execute` per server batch."""

    model = RETRIEVER
