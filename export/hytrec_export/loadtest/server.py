"""The live server, as a load test needs it: `HytrecClient` for users, Triton's own calls for what a client has not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

from hytrec.contract import Ensemble, Limit
from hytrec.signature import APPEND, ENSEMBLES, RECOMMEND
from hytrec_clients import ClientError, Credentials, HytrecClient, KeyTypes, RetryPolicy, ServerMismatch
from hytrec_clients.codec import Contract, limits_of
from hytrec_clients.credentials import connect
from hytrec_clients.error_mapping import rejection
from hytrec_clients.flow import failure_of
from hytrec_export.errors import LoadTestError
from hytrec_export.loadtest.statistics import ModelTimes, times_of
from hytrec_export.optional import require

REQUEST_TIMEOUT_S = 300.0
"""Of one request, all its attempts; the first rank request of a compiled model takes minutes."""
RETRY = RetryPolicy(first_backoff_s=0.1, attempt_share=1.0, max_attempts=5)
"""A peer does not deduplicate, so an attempt gets all the time; a dead server is given up long before that."""
_TIMEOUT_S = 5.0
"""Of a call that runs no model."""


class LiveServer:
    """A connection to a server; may be shared between threads.

    Args:
        endpoint: host:port of its gRPC.

    Attributes:
        client: for requests of users.
        credentials: TLS and token, from the environment.

    Raises:
        MissingPackageError: tritonclient is not installed.
    """

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.credentials = Credentials.from_environment()
        grpc = require("tritonclient.grpc", extra="client")
        self.client = HytrecClient(endpoint, timeout_s=REQUEST_TIMEOUT_S, retry=RETRY, credentials=self.credentials)
        self._failure: type[Exception] = grpc.InferenceServerException
        self._triton: Any = connect(grpc, endpoint, self.credentials)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self._triton.close()

    def is_live(self) -> bool:
        """Whether it answers."""
        try:
            return bool(self._ask("is_server_live"))
        except LoadTestError:
            return False

    def check(self, endpoints: tuple[Ensemble, ...]) -> KeyTypes:
        """Types of its keys.

        Args:
            endpoints: that it must serve, `hytrec_append` among them.

        Raises:
            LoadTestError: no server answers, it lacks an endpoint, or an endpoint has another contract.
        """
        self._ask("is_server_live", advice="start one with: hytrec-export serve, or name its gRPC port with --endpoint")
        contracts = {}
        for endpoint in endpoints:
            metadata = self._ask("get_model_metadata", endpoint.name)
            try:
                contracts[endpoint.name] = Contract.of(endpoint, metadata)
            except ServerMismatch as error:
                raise LoadTestError(f"{self.endpoint}: {error}") from error
            served = {tensor.name for tensor in (*metadata.inputs, *metadata.outputs)}
            if unknown := served - {tensor.name for one in ENSEMBLES for tensor in (*one.inputs, *one.outputs)}:
                raise LoadTestError(
                    f"{self.endpoint}: {endpoint.name} of the server has another contract: {min(unknown)} is not known "
                    "here; install the hytrec-export version the server was built with"
                )
        return contracts[APPEND.name].key_types()

    def max_top_k(self) -> int | None:
        """The largest top_k of a recommendation; None where the server does not publish it."""
        try:
            return limits_of(self._ask("get_model_config", RECOMMEND.name)).get(Limit.RETRIEVED)
        except LoadTestError:
            return None

    def statistics(self) -> dict[str, ModelTimes]:
        """What every model has done since the server started.

        Raises:
            LoadTestError: the server does not answer.
        """
        answer = self._ask("get_inference_statistics", advice="see its log")
        return {model.name: times_of(model) for model in answer.model_stats}

    @contextmanager
    def requests(self) -> Iterator[HytrecClient]:
        """The client, whose known errors leave the block as LoadTestError."""
        try:
            yield self.client
        except ClientError as error:
            raise LoadTestError(f"a request to the server at {self.endpoint} failed: {error}") from error

    def _ask(self, method: str, *arguments: str, advice: str = "") -> Any:
        try:
            return getattr(self._triton, method)(*arguments, client_timeout=_TIMEOUT_S)
        except self._failure as error:
            failure = failure_of(error)
            if failure.not_authenticated:
                raise LoadTestError(str(rejection("", self.endpoint, failure))) from error
            said = failure.message
            if arguments:
                raise LoadTestError(
                    f"the server at {self.endpoint} does not serve {arguments[0]} ({said}); name a server that was "
                    "started with: hytrec-export serve"
                ) from error
            raise LoadTestError(f"no server answers at {self.endpoint} ({said}); {advice}") from error
