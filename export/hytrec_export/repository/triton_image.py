"""NGC image tags by TensorRT version; TensorRT deserializes engines of its own version only."""

from __future__ import annotations

from hytrec_export.errors import DeploymentError

REGISTRY = "nvcr.io/nvidia/tritonserver"
IMAGES = {
    "10.8.0": "25.01-py3",
    "10.16.1": "26.04-py3",
}
"""Tag of the image by TensorRT version, as far as a published statement was found; docs/gpu.md names the sources.
Images up to 24.10 have Python 3.10, on which this package does not run."""
FUSED_TAG = "26.07-py3"
"""Oldest image whose onnxruntime (1.27.0) has the operator of the fused lowering, which came with 1.25.1."""
GRAPH_TAG = "26.04-py3"
"""Image for graphs of the chunked lowering, which older ones run too."""


def image_for(tensorrt_version: str) -> str:
    """The image, with its tag, whose TensorRT reads engines of a version.

    Args:
        tensorrt_version: for example "10.16.1.11"; what follows the third number does not matter.

    Raises:
        DeploymentError: no image is known.
    """
    release = ".".join(tensorrt_version.split(".")[:3])
    if release not in IMAGES:
        raise DeploymentError(
            f"no Triton image with TensorRT {tensorrt_version} is known (known: {', '.join(IMAGES)}); build the engine "
            "with one of those, or look the tag up in NVIDIA's support matrix and pass it: --build-arg TRITON_TAG=..."
        )
    return f"{REGISTRY}:{IMAGES[release]}"
