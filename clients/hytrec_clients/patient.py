"""Inference calls that are given up without being cancelled.

Triton 2.51 (24.10) crashes when a call is cancelled, or its deadline passes, just as it is completed; later ones do not
(triton-inference-server/server, pull request 8078). So a call's deadline on the wire is later than the time its
caller waits, and a caller who goes leaves the call to its end. The server is told how long the caller waits by the
request parameter `timeout`, and drops what is late.
"""

from __future__ import annotations

import asyncio
from queue import Empty, SimpleQueue
from typing import Any

from hytrec_clients.flow import RpcFailure

LINGER_S = 10.0
"""A server that has not answered for so long after its caller went is gone, or hangs."""
SHORT_S = 2.0
"""A blocking call of at least so long is an ordinary one, as it takes a thread less: servers answer or refuse within a
second, so that a call that lasts longer is not about to be completed."""


class PatientServer:
    """A client of `tritonclient.grpc` whose `infer` is given up without being cancelled."""

    def __init__(self, server: Any) -> None:
        self._server = server

    def __getattr__(self, name: str) -> Any:
        return getattr(self._server, name)

    def infer(self, model: str, inputs: Any, *, client_timeout: float, **options: Any) -> Any:
        """As tritonclient's.

        Raises:
            RpcFailure: there is no response within `client_timeout` seconds.
            InferenceServerException: the call failed.
        """
        if client_timeout >= SHORT_S:
            return self._server.infer(model, inputs, client_timeout=client_timeout, **options)
        responses: SimpleQueue[tuple[Any, Exception | None]] = SimpleQueue()
        self._server.async_infer(
            model,
            inputs,
            lambda result, error: responses.put((result, error)),
            client_timeout=client_timeout + LINGER_S,
            **options,
        )
        try:
            result, error = responses.get(timeout=client_timeout)
        except Empty:
            raise _no_response(client_timeout) from None
        if error is not None:
            raise error
        return result


class PatientAsyncServer:
    """The same of `tritonclient.grpc.aio`."""

    def __init__(self, server: Any) -> None:
        self._server = server
        self._calls: set[asyncio.Future[Any]] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._server, name)

    async def infer(self, model: str, inputs: Any, *, client_timeout: float, **options: Any) -> Any:
        """As tritonclient's; see `PatientServer.infer`. A caller who is cancelled does not cancel the call."""
        call = asyncio.ensure_future(
            self._server.infer(model, inputs, client_timeout=client_timeout + LINGER_S, **options)
        )
        self._calls.add(call)
        call.add_done_callback(self._ended)
        done, _ = await asyncio.wait({call}, timeout=client_timeout)
        if not done:
            raise _no_response(client_timeout)
        return call.result()

    async def close(self) -> None:
        """Close the connection, and end what is left of the calls."""
        await self._server.close()
        await asyncio.gather(*self._calls, return_exceptions=True)

    def _ended(self, call: asyncio.Future[Any]) -> None:
        self._calls.discard(call)
        if not call.cancelled():
            call.exception()  # looked at, or asyncio reports it where nobody waits any more


def _no_response(seconds: float) -> RpcFailure:
    return RpcFailure("DEADLINE_EXCEEDED", f"no response within {seconds:.3g} s")
