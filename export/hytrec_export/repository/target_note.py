"""TARGET.md: which server runs a repository that the pip-installed tritonserver cannot, and how it differs."""

from __future__ import annotations

from hytrec_export.options import Device, Lowering, StateKind, Target
from hytrec_export.plan import BuildPlan
from hytrec_export.repository.sequence_batching import IDLE_US
from hytrec_export.repository.triton_image import FUSED_TAG, GRAPH_TAG, REGISTRY

TARGET_NOTE = "TARGET.md"

_WHERE = {
    Target.ONNXRUNTIME: (
        "The neural models run in Triton's onnxruntime backend{device}. The pip server has no such backend: serve this "
        "folder with NVIDIA's Triton image `{image}` or a later one, as `deploy/` of the project does."
    ),
    Target.TENSORRT: (
        "The neural models are TensorRT engines for one version of TensorRT and one kind of GPU (`manifest.json` says "
        "which). Serve this folder with the Triton image of that very TensorRT version, as `deploy/` of the project "
        "does; check the machine first with `hytrec-export doctor .`"
    ),
    Target.TENSORRT_RTX: (
        "**No Triton server loads this folder.** The engines are of TensorRT for RTX, and Triton has no backend for "
        "them. The configs are those of target tensorrt. Build with `--target tensorrt` on the GPU machine to serve."
    ),
}
_SESSION = """
## Sessions
Triton keeps the state (`--state sequence`): a cache for a session, not a store. There are no users here and nothing
survives the server. Endpoints: `hytrec_session_append`, `hytrec_session_rank`, `hytrec_session_recommend`.

- Every request names its `sequence_id`; the first one sets `sequence_start`, the last one `sequence_end`.
- Requests of one session are sequential: send the next one after the response to the one before.
- A session without a request for {idle_min} minutes is dropped, and its next request fails ("must specify the START
  flag"): start again with the history.
- The events of a failed request may have been counted. Compare `event_count` with the events that were sent; where they
  differ, end the session and start again. There is no `request_id`: a retry counts twice.
- There is no `exclude_recent`: name the items in `excluded_keys`.
"""


def target_note(plan: BuildPlan) -> str:
    """Markdown text of TARGET.md for a build."""
    device = " on a GPU" if plan.device is Device.CUDA else " on the CPU"
    image = f"{REGISTRY}:{FUSED_TAG if plan.lowering is Lowering.FUSED else GRAPH_TAG}"
    text = f"# Target {plan.target.value}\n\n{_WHERE[plan.target].format(device=device, image=image)}\n"
    if plan.state is StateKind.SEQUENCE:
        text += _SESSION.format(idle_min=IDLE_US // 60_000_000)
    return text
