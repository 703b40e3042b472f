"""Every method of Triton's gRPC service, called without what a client needs."""

from __future__ import annotations

from typing import Any

from hytrec_export.optional import require

HEALTH_CHECK = "/grpc.health.v1.Health/Check"
_TIMEOUT_S = 10.0


def service_methods() -> dict[str, Any]:
    """An empty request by method: of Triton's service, and of gRPC's own health service."""
    messages = require("tritonclient.grpc.service_pb2", extra="client")
    service = messages.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    empty = {
        f"/{service.full_name}/{method.name}": getattr(messages, method.input_type.name)() for method in service.methods
    }
    return empty | {HEALTH_CHECK: messages.ServerLiveRequest()}


def call_everything(channel: Any, metadata: list[tuple[str, str]]) -> dict[str, str]:
    """What a server says to every method; "" where it answers.

    Args:
        channel: of gRPC.
        metadata: headers of each call.
    """
    grpc = require("grpc", extra="client")
    said = {}
    for path, message in service_methods().items():
        stream = path.endswith("StreamInfer")
        call = (channel.stream_stream if stream else channel.unary_unary)(
            path, request_serializer=lambda one: one.SerializeToString(), response_deserializer=bytes
        )
        try:
            reply = call(iter([message]) if stream else message, metadata=metadata, timeout=_TIMEOUT_S)
            for _ in reply if stream else ():
                break
        except grpc.RpcError as error:
            said[path] = f"{error.code().name}: {error.details()}"
        else:
            said[path] = ""
    return said
