from __future__ import annotations

import pytest

from hytrec_export.errors import DeploymentError
from hytrec_export.repository.triton_image import image_for


@pytest.mark.parametrize(
    ("version", "image"),
    [
        ("10.16.1.11", "nvcr.io/nvidia/tritonserver:26.04-py3"),
        ("10.16.1", "nvcr.io/nvidia/tritonserver:26.04-py3"),
        ("10.8.0.43", "nvcr.io/nvidia/tritonserver:25.01-py3"),
    ],
)
def test_an_image_by_version(version: str, image: str) -> None:
    assert image_for(version) == image


@pytest.mark.parametrize("version", ["10.4.0", "11.0.0.114", "1.7.0", ""])
def test_a_version_without_a_known_image(version: str) -> None:
    with pytest.raises(
        DeploymentError,
        match=rf"^no Triton image with TensorRT {version} is known \(known: 10\.8\.0, 10\.16\.1\); build the engine "
        r"with one of those, or look the tag up in NVIDIA's support matrix and pass it: --build-arg TRITON_TAG=\.\.\.$",
    ):
        image_for(version)
