"""The gated delta rule of a TADN layer, in plain and in chunked forms, under one signature.

    u_t = beta_t (v_t - g_t S_(t-1)^T k_t)
    S_t = g_t S_(t-1) + k_t u_t^T        = g_t (I - beta_t k_t k_t^T) S_(t-1) + beta_t k_t v_t^T
    o_t = S_t^T q_t

(arXiv 2412.06464, eq. 10; the decay g_t is DESIGN section 2's.) Every form takes and returns

    query, key   (B, T, H, K)    float; L2-normalized over K by the caller
    value        (B, T, H, V)
    beta         (B, T, H)       write strength in [0, 1]; 0 at padding
    log_decay    (B, T, H)       log g_t in [-30, 0]; 0 at padding
    state        (B, H, K, V)    S_0
    -> output    (B, T, H, V), state S_T (B, H, K, V)

`reference` is the truth, `chunk_by_chunk` the fastest in eager PyTorch, `chunked` the one that is exported. Another
form, onnxruntime's fused operator, has the same signature and lives with the exporter.
"""

from hytrec.modeling.delta_rule.parallel import CHUNK, chunked
from hytrec.modeling.delta_rule.recurrence import MIN_LOG_DECAY, DeltaRule, reference
from hytrec.modeling.delta_rule.sequential import EAGER_CHUNK, chunk_by_chunk, memory_at

__all__ = [
    "CHUNK",
    "EAGER_CHUNK",
    "MIN_LOG_DECAY",
    "DeltaRule",
    "chunk_by_chunk",
    "chunked",
    "memory_at",
    "reference",
]
