"""The live server, as a load test needs it: its contract, its statistics, and single calls."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from hytrec.contract import DType, Ensemble, Limit, Model
from hytrec.signature import FORGET, RECOMMEND, REQUEST_ID, REQUEST_ID_BYTES, USER_ID
from hytrec_export.errors import LoadTestError
from hytrec_export.loadtest.contract import TRITON_NAMES, check_contract
from hytrec_export.loadtest.statistics import ModelTimes
from hytrec_export.optional import require

CALL_TIMEOUT_S = 120.0
_CONNECT_TIMEOUT_S = 5.0
_TRIES = 5
_PAUSE_S = 0.05


class LiveServer:
    """A gRPC client of a server; safe to share between threads.

    Raises:
        MissingPackageError: tritonclient is not installed.
    """

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self._grpc: Any = require("tritonclient.grpc", extra="loadtest")
        self._client: Any = self._grpc.InferenceServerClient(endpoint)
        self._dtypes: dict[str, dict[str, DType]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._client.close()

    def is_live(self) -> bool:
        """Whether it answers."""
        try:
            return bool(self._client.is_server_live(client_timeout=_CONNECT_TIMEOUT_S))
        except self._grpc.InferenceServerException:
            return False

    def check(self, endpoints: tuple[Ensemble, ...]) -> dict[str, dict[str, DType]]:
        """Dtypes of every endpoint's tensors, by endpoint.

        Raises:
            LoadTestError: no server answers, it lacks an endpoint, or an endpoint has another contract.
        """
        try:
            self._client.is_server_live(client_timeout=_CONNECT_TIMEOUT_S)
        except self._grpc.InferenceServerException as error:
            raise LoadTestError(
                f"no server answers at {self.endpoint} ({_first_line(error)}); "
                "start one with: hytrec-export serve, or name its gRPC port with --endpoint"
            ) from error
        for endpoint in endpoints:
            try:
                metadata = self._client.get_model_metadata(endpoint.name, client_timeout=_CONNECT_TIMEOUT_S)
            except self._grpc.InferenceServerException as error:
                raise LoadTestError(
                    f"the server at {self.endpoint} does not serve {endpoint.name} ({_first_line(error)}); "
                    "name a server that was started with: hytrec-export serve"
                ) from error
            self._dtypes[endpoint.name] = check_contract(endpoint, metadata)
        return self._dtypes

    def serves(self, model: Ensemble | Model) -> bool:
        """Whether a model is there and ready."""
        try:
            return bool(self._client.is_model_ready(model.name, client_timeout=_CONNECT_TIMEOUT_S))
        except self._grpc.InferenceServerException:
            return False

    def retrieved(self) -> int | None:
        """R, the largest top_k; None where the server does not say."""
        try:
            answer = self._client.get_model_config(RECOMMEND.name, client_timeout=_CONNECT_TIMEOUT_S)
        except self._grpc.InferenceServerException:
            return None
        told = answer.config.parameters[Limit.RETRIEVED].string_value
        return int(told) if told.isdecimal() else None

    def statistics(self) -> dict[str, ModelTimes]:
        """What every model has done since the server started.

        Raises:
            LoadTestError: the server does not answer.
        """
        try:
            answer = self._client.get_inference_statistics(client_timeout=_CONNECT_TIMEOUT_S)
        except self._grpc.InferenceServerException as error:
            raise LoadTestError(
                f"the server at {self.endpoint} stopped answering ({_first_line(error)}); see its log"
            ) from error
        return {model.name: ModelTimes.of(model) for model in answer.model_stats}

    def call(self, endpoint: Ensemble, arguments: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
        """One call, made again when the server says that it should be; outputs as (n,) by name.

        Raises:
            LoadTestError: the server refuses it or fails.
        """
        dtypes = self._dtypes[endpoint.name]
        given = {REQUEST_ID.name: np.frombuffer(os.urandom(REQUEST_ID_BYTES), np.uint8), **arguments}
        result = self._infer(endpoint, [self._tensor(name, value, dtypes[name]) for name, value in given.items()])
        return {tensor.name: result.as_numpy(tensor.name)[0] for tensor in endpoint.outputs}

    def forget(self, user: str) -> None:
        """Delete what the server keeps of a user; a failure is let pass, the user is nobody's."""
        try:
            self._infer(FORGET, [self._tensor(USER_ID.name, [user], DType.BYTES)])
        except LoadTestError:
            return

    def _infer(self, endpoint: Ensemble | Model, tensors: list[Any]) -> Any:
        attempt = 0
        while True:
            attempt += 1
            try:
                return self._client.infer(endpoint.name, tensors, client_timeout=CALL_TIMEOUT_S)
            except self._grpc.InferenceServerException as error:
                if "UNAVAILABLE" in str(error.status()) and attempt < _TRIES:
                    time.sleep(_PAUSE_S * 2**attempt)
                    continue
                raise LoadTestError(
                    f"the server at {self.endpoint} refuses a call of {endpoint.name}: {_first_line(error)}"
                ) from error

    def _tensor(self, name: str, value: Any, dtype: DType) -> Any:
        array = _array(value, dtype)[None]  # (1, n)
        return self._grpc.InferInput(name, list(array.shape), TRITON_NAMES[dtype]).set_data_from_numpy(array)


def _array(value: Any, dtype: DType) -> NDArray[Any]:
    if dtype is DType.BYTES:
        texts = value.tolist() if isinstance(value, np.ndarray) else list(value)
        array = np.empty(len(texts), object)
        array[:] = [text.encode() if isinstance(text, str) else text for text in texts]
        return array
    return np.asarray(value, {DType.UINT8: np.uint8, DType.BOOL: np.bool_}.get(dtype, np.int64))


def _first_line(error: Exception) -> str:
    message = getattr(error, "message", lambda: str(error))()
    return (str(message).splitlines() or [type(error).__name__])[0]
