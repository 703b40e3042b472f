"""The table of served tensors: every name, dtype and axis of every model, stated once.

ONNX graph names, `config.pbtxt` files, the Triton python models and the gRPC clients are all made from it.
No torch, no tritonclient: any part of the project may import this module.

Axes (the batch axis B stands before all of them and is never written):

    T  new events of a request       W  recent window            L  TADN layers
    N  candidates to rank            D  model width              H  heads
    X  excluded items                K, V  head sizes of the memory (D / H)
    R  retrieved items, min(500, I)  S  items returned, top_k at most
    Z  bytes of an opaque tensor

T, N, X, S and Z vary from request to request; the others are fixed by a build. See DESIGN section 3 for the contract.
"""

from __future__ import annotations

from hytrec.contract import Content, DType, Model, Tensor, next_name, wire_ensemble

REQUEST_ID_BYTES = 16
"""Size of a `request_id`; made by the client once per logical request and repeated on retry."""
CLIENT_SLOT_BYTES = 8
"""First bytes of a `request_id`: the client slot. A caller has one request at a time in a slot."""
COUNTED_REQUEST = b"\xff\xc7"
"""Bytes after the client slot in an id whose last 6 bytes are a big-endian counter that rises within the slot. The
server applies no request that is not above the highest it applied of the slot, however late it comes. Ids without
these bytes are opaque (no UUID has 0xff there): the server knows the last 32 of a user."""
FINGERPRINT_BYTES = 16
"""Size of a `model_fingerprint`; settings, clients and JSON write it as 32 hex digits."""
MAX_USER_ID_BYTES = 256
MAX_KEY_BYTES = 256
"""Longest item or behavior key, as in a vocabulary."""
MAX_TIME_S = 100_000_000_000
"""Largest unix time accepted, in seconds; anything over it is most likely in a finer unit."""
MAX_FUTURE_S = 300
"""How far a time may lie in the server's future, in seconds (clock skew)."""
MAX_RETRIEVED = 500
UNCHECKED_EVENT_COUNT = -1
DEFAULT_TOP_K = 10


def _tensor(name: str, dtype: DType, axes: str | tuple[str | int, ...], doc: str, *, optional: bool = False) -> Tensor:
    """`axes` as one string of letters ("LHKV"), or a tuple where a plain size stands among them."""
    return Tensor(name=name, dtype=dtype, axes=tuple(axes), doc=doc, optional=optional)


def _numbers(name: str, content: Content, axes: str | tuple[str | int, ...], doc: str) -> Tensor:
    return Tensor(name=name, dtype=DType.INT64, axes=tuple(axes), doc=doc, content=content)


_ONE = (1,)

# --- the state of one user (DESIGN section 3) ---
MEMORY = _tensor("memory", DType.FLOAT32, "LHKV", "S of every TADN layer")
WINDOW_ITEMS = _numbers(
    "window_items", Content.ITEM_ROW, "W", "item rows of the last W events, right-aligned, 0 = none"
)
WINDOW_BEHAVIORS = _numbers("window_behaviors", Content.BEHAVIOR_ROW, "W", "their behavior rows")
WINDOW_TIMES = _numbers("window_times", Content.TIME_S, "W", "their unix times in seconds, 0 = none")
LONG_VECTOR = _tensor("long_vector", DType.FLOAT32, "D", "encoder output at the last event")
LAST_TIME = _numbers("last_time", Content.TIME_S, _ONE, "event time m of the last event in seconds, 0 before the first")
EVENT_COUNT = _numbers("event_count", Content.COUNT, _ONE, "events absorbed so far")
STATE = (MEMORY, WINDOW_ITEMS, WINDOW_BEHAVIORS, WINDOW_TIMES, LONG_VECTOR, LAST_TIME, EVENT_COUNT)

NEXT_STATE = tuple(_tensor(next_name(t.name), t.dtype, t.axes, t.doc + ", after this request") for t in STATE)

# --- tensors between the steps ---
ITEM_ROWS = _numbers("item_rows", Content.ITEM_ROW, "T", "item rows, right-padded with 0; I + 1 = unknown item")
BEHAVIOR_ROWS = _numbers("behavior_rows", Content.BEHAVIOR_ROW, "T", "behavior rows, 0 = none")
ROW_TIMES = _numbers(
    "event_times", Content.TIME_S, "T", "unix times in seconds; 0 marks padding, which stands at the end"
)
LAST_MEMORY = _tensor("last_memory", DType.FLOAT32, "HKV", "S of the last TADN layer, not decayed to now")
NOW = _numbers("now_s", Content.TIME_S, _ONE, "the time of the query, unix seconds")
EXCLUDED_ROWS = _numbers("excluded_rows", Content.ITEM_ROW, "X", "item rows not to retrieve, padded with 0")
CANDIDATE_ROWS = _numbers("candidate_rows", Content.ITEM_ROW, "N", "item rows to score, padded with 0 at the end")
RETRIEVED_ROWS = _tensor(
    "candidate_rows", DType.INT64, "R", "best item rows, best first; 0 where fewer than R items are left"
)
RAW_SCORES = _tensor("raw_scores", DType.FLOAT32, "N", "score of every candidate row, padding included")
CALL_CONTEXT = _tensor(
    "call_context",
    DType.UINT8,
    "Z",
    "what the save step needs to know; see hytrec_export.serving.call_context",
)

# --- public tensors ---
USER_ID = _tensor("user_id", DType.BYTES, _ONE, "the caller's user id, 1 to 256 bytes of UTF-8")
REQUEST_ID = _tensor(
    "request_id", DType.UINT8, (REQUEST_ID_BYTES,), "one per logical request, repeated on retry", optional=True
)
ITEM_KEYS = _tensor("item_keys", DType.ITEM_KEY, "T", "item keys of new events, oldest first", optional=True)
BEHAVIOR_KEYS = _tensor("behavior_keys", DType.BEHAVIOR_KEY, "T", "behavior keys of new events", optional=True)
TIMES = _tensor("times", DType.INT64, "T", "unix times of new events in seconds", optional=True)
EXPECTED_EVENT_COUNT = _tensor(
    "expected_event_count", DType.INT64, _ONE, "event_count the caller expects; -1 = unchecked", optional=True
)
REPLACE = _tensor("replace", DType.BOOL, _ONE, "the events become the user's whole history (false)", optional=True)
PUBLIC_NOW = _tensor("now", DType.INT64, _ONE, "unix seconds; the server's clock if not given", optional=True)
CANDIDATE_KEYS = _tensor("candidate_keys", DType.ITEM_KEY, "N", "item keys to score")
TOP_K = _tensor("top_k", DType.INT64, _ONE, "how many items to return (10)", optional=True)
EXCLUDED_KEYS = _tensor("excluded_keys", DType.ITEM_KEY, "X", "item keys never to return", optional=True)
EXCLUDE_RECENT = _tensor("exclude_recent", DType.BOOL, _ONE, "leave out the items of the window (false)", optional=True)
ELIGIBLE = _tensor("eligible", DType.BYTES, _ONE, "name of the server's list of items to choose from", optional=True)

NEW_EVENT_COUNT = _tensor("event_count", DType.INT64, _ONE, "events absorbed, this request's included")
APPLIED = _tensor("applied", DType.BOOL, _ONE, "whether this request's events were written now")
MODEL_FINGERPRINT = _tensor(
    "model_fingerprint", DType.UINT8, (FINGERPRINT_BYTES,), "hash of weights, config and vocabulary"
)
STATE_STATUS = _tensor("state_status", DType.INT64, _ONE, "what the store held before: a StateStatus")
RECEIPT = (NEW_EVENT_COUNT, APPLIED, MODEL_FINGERPRINT, STATE_STATUS)
SCORES = _tensor("scores", DType.FLOAT32, "N", "score of every candidate, in the order given")
RETURNED_KEYS = _tensor("recommended_keys", DType.ITEM_KEY, "S", "best items, best first")
RETURNED_SCORES = _tensor("recommended_scores", DType.FLOAT32, "S", "their scores")
FORGOTTEN = _tensor("forgotten", DType.BOOL, _ONE, "whether there was something to forget")

EVENT_INPUTS = (ITEM_KEYS, BEHAVIOR_KEYS, TIMES, EXPECTED_EVENT_COUNT)
RANK_INPUTS = (PUBLIC_NOW, CANDIDATE_KEYS)
RECOMMEND_INPUTS = (PUBLIC_NOW, TOP_K, EXCLUDED_KEYS, EXCLUDE_RECENT, ELIGIBLE)


def _optional(tensor: Tensor) -> Tensor:
    return Tensor(name=tensor.name, dtype=tensor.dtype, axes=tensor.axes, doc=tensor.doc, optional=True)


STATE_LOAD = Model(
    name="hytrec_state_load",
    inputs=(
        USER_ID,
        REQUEST_ID,
        *EVENT_INPUTS,
        REPLACE,
        PUBLIC_NOW,
        _optional(CANDIDATE_KEYS),
        TOP_K,
        EXCLUDED_KEYS,
        EXCLUDE_RECENT,
        ELIGIBLE,
    ),
    outputs=(*STATE, ITEM_ROWS, BEHAVIOR_ROWS, ROW_TIMES, NOW, EXCLUDED_ROWS, CANDIDATE_ROWS, CALL_CONTEXT),
    doc="validates a request, maps keys to rows, pads to bucket lengths, reads the user's state",
)
ENCODER = Model(
    name="hytrec_encoder",
    inputs=(*STATE, ITEM_ROWS, BEHAVIOR_ROWS, ROW_TIMES),
    outputs=(*NEXT_STATE, LAST_MEMORY),
    doc="embedding and TADN layers over the new events, from the previous state",
)
USER_FEATURES = (LAST_MEMORY, WINDOW_ITEMS, WINDOW_BEHAVIORS, WINDOW_TIMES, LONG_VECTOR, LAST_TIME, NOW)
"""What retriever and reranker read of a user."""
RETRIEVER = Model(
    name="hytrec_retriever",
    inputs=(*USER_FEATURES, EXCLUDED_ROWS),
    outputs=(RETRIEVED_ROWS,),
    doc="user vector against the whole item table",
)
RERANKER = Model(
    name="hytrec_reranker",
    inputs=(*USER_FEATURES, CANDIDATE_ROWS),
    outputs=(RAW_SCORES,),
    doc="a score for every candidate from the memory and the window",
)
STATE_SAVE = Model(
    name="hytrec_state_save",
    inputs=(*NEXT_STATE, CALL_CONTEXT, _optional(CANDIDATE_ROWS), _optional(RAW_SCORES)),
    outputs=(*RECEIPT, SCORES, RETURNED_KEYS, RETURNED_SCORES),
    doc="writes the state by compare-and-set, trims, sorts, maps rows back to keys: every public output",
)
FORGET = Model(
    name="hytrec_forget",
    inputs=(USER_ID,),
    outputs=(FORGOTTEN, MODEL_FINGERPRINT),
    doc="deletes everything kept of a user",
)
GRAPHS = (ENCODER, RETRIEVER, RERANKER)
"""The models that are neural networks: each is one ONNX graph."""
STATE_MODELS = (STATE_LOAD, STATE_SAVE, FORGET)


APPEND = wire_ensemble(
    "hytrec_append",
    "feed, backfill or replace a user's history",
    (USER_ID, REQUEST_ID, *EVENT_INPUTS, REPLACE),
    RECEIPT,
    (STATE_LOAD, ENCODER, STATE_SAVE),
    unread=frozenset({CANDIDATE_ROWS.name}),
)
RANK = wire_ensemble(
    "hytrec_rank",
    "append events (or none) and score candidates",
    (USER_ID, REQUEST_ID, *EVENT_INPUTS, *RANK_INPUTS),
    (SCORES, *RECEIPT),
    (STATE_LOAD, ENCODER, RERANKER, STATE_SAVE),
)
RECOMMEND = wire_ensemble(
    "hytrec_recommend",
    "append events (or none) and return the best items of the catalogue",
    (USER_ID, REQUEST_ID, *EVENT_INPUTS, *RECOMMEND_INPUTS),
    (RETURNED_KEYS, RETURNED_SCORES, *RECEIPT),
    (STATE_LOAD, ENCODER, RETRIEVER, RERANKER, STATE_SAVE),
)
ENSEMBLES = (APPEND, RANK, RECOMMEND)

# --- the same endpoints where one model takes all the steps ---
FUSED = Model(
    name="hytrec_fused",
    inputs=STATE_LOAD.inputs,
    outputs=STATE_SAVE.outputs,
    doc="every step of an endpoint in one process; the requested outputs select the endpoint",
)
FUSED_APPEND = Model(
    name="hytrec_fused_append",
    inputs=APPEND.inputs,
    outputs=APPEND.outputs,
    doc="every step of an append in one process, which alone writes most events",
)
FUSED_MODELS = (FUSED, FUSED_APPEND)
FUSED_ENSEMBLES = tuple(
    wire_ensemble(e.name, e.doc, e.inputs, e.outputs, (FUSED_APPEND if e is APPEND else FUSED,)) for e in ENSEMBLES
)

# --- sessions: Triton itself keeps the encoder's state, for as long as a sequence lives ---
SESSION_INPUTS = (ITEM_KEYS, BEHAVIOR_KEYS, TIMES)
SESSION_RECEIPT = (NEW_EVENT_COUNT, MODEL_FINGERPRINT)
NEXT_EVENT_COUNT = NEXT_STATE[STATE.index(EVENT_COUNT)]
SESSION_LOAD = Model(
    name="hytrec_session_load",
    inputs=(*SESSION_INPUTS, PUBLIC_NOW, _optional(CANDIDATE_KEYS), TOP_K, EXCLUDED_KEYS),
    outputs=(ITEM_ROWS, BEHAVIOR_ROWS, ROW_TIMES, NOW, EXCLUDED_ROWS, CANDIDATE_ROWS, CALL_CONTEXT),
    doc="validates a request of a session, maps keys to rows, pads to bucket lengths",
)
CARRIED_PREFIX = "carried_"
CARRIED_STATE = tuple(
    _tensor(
        CARRIED_PREFIX + t.name, t.dtype, t.axes, f"copy of {next_name(t.name)} that Triton carries to the next request"
    )
    for t in STATE
)
"""Triton fails concurrent sessions where one tensor is both an output and a state, and pairs the states' outputs with
their inputs by the rank of their names, so that one prefix for all keeps the pairs."""
SESSION_ENCODER = Model(
    name=ENCODER.name,
    inputs=(ITEM_ROWS, BEHAVIOR_ROWS, ROW_TIMES),
    outputs=ENCODER.outputs,
    doc="the encoder, whose state tensors Triton carries from request to request",
)
SESSION_ENCODER_GRAPH = Model(
    name=ENCODER.name,
    inputs=ENCODER.inputs,
    outputs=(*ENCODER.outputs, *CARRIED_STATE),
    doc="its graph, the tensors that Triton carries included",
)
SESSION_GRAPHS = (SESSION_ENCODER_GRAPH, RETRIEVER, RERANKER)
SESSION_SAVE = Model(
    name="hytrec_session_save",
    inputs=(NEXT_EVENT_COUNT, CALL_CONTEXT, _optional(CANDIDATE_ROWS), _optional(RAW_SCORES)),
    outputs=(*SESSION_RECEIPT, SCORES, RETURNED_KEYS, RETURNED_SCORES),
    doc="trims, sorts, maps rows back to keys: every public output; stores nothing",
)
SESSION_ENSEMBLES = (
    wire_ensemble(
        "hytrec_session_append",
        "feed a session",
        SESSION_INPUTS,
        SESSION_RECEIPT,
        (SESSION_LOAD, SESSION_ENCODER, SESSION_SAVE),
        unread=frozenset({CANDIDATE_ROWS.name}),
    ),
    wire_ensemble(
        "hytrec_session_rank",
        "feed a session (or not) and score candidates",
        (*SESSION_INPUTS, *RANK_INPUTS),
        (SCORES, *SESSION_RECEIPT),
        (SESSION_LOAD, SESSION_ENCODER, RERANKER, SESSION_SAVE),
    ),
    wire_ensemble(
        "hytrec_session_recommend",
        "feed a session (or not) and return the best items of the catalogue",
        (*SESSION_INPUTS, PUBLIC_NOW, TOP_K, EXCLUDED_KEYS),
        (RETURNED_KEYS, RETURNED_SCORES, *SESSION_RECEIPT),
        (SESSION_LOAD, SESSION_ENCODER, RETRIEVER, RERANKER, SESSION_SAVE),
    ),
)
