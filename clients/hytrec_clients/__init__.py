"""gRPC clients of the HyTRec ensembles: `HytrecClient`, and `AsyncHytrecClient` for asyncio.

Neither torch nor onnxruntime is imported, and tritonclient only when a client is made.
"""

from hytrec_clients.aio import AsyncHytrecClient
from hytrec_clients.client import HytrecClient
from hytrec_clients.codec import KeyTypes
from hytrec_clients.credentials import Credentials
from hytrec_clients.endpoints import DEFAULT_URL
from hytrec_clients.errors import (
    ClientClosed,
    ClientError,
    DeadlineExceeded,
    InvalidRequest,
    MissingPackageError,
    ModelChanged,
    NotAuthenticated,
    ServerFailed,
    ServerMismatch,
    Unavailable,
    Unresolved,
)
from hytrec_clients.events import Events, Keys
from hytrec_clients.request_ids import stream_request_id
from hytrec_clients.requests import RequestOptions
from hytrec_clients.results import Key, Ranking, Receipt, Recommendation
from hytrec_clients.retry import DEFAULT_TIMEOUT_S, RetryPolicy

__all__ = [
    "DEFAULT_TIMEOUT_S",
    "DEFAULT_URL",
    "AsyncHytrecClient",
    "ClientClosed",
    "ClientError",
    "Credentials",
    "DeadlineExceeded",
    "Events",
    "HytrecClient",
    "InvalidRequest",
    "Key",
    "KeyTypes",
    "Keys",
    "MissingPackageError",
    "ModelChanged",
    "NotAuthenticated",
    "Ranking",
    "Receipt",
    "Recommendation",
    "RequestOptions",
    "RetryPolicy",
    "ServerFailed",
    "ServerMismatch",
    "Unavailable",
    "Unresolved",
    "stream_request_id",
]
