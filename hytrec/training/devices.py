"""Where a training runs, and in which precision its products are computed."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hytrec.errors import TrainingError
from hytrec.modeling.model import HyTRec
from hytrec.training.options import Precision, TrainingOptions

__all__ = ["chosen_device", "chosen_precision", "device_name", "multiply_in_bfloat16"]


def chosen_device(name: str) -> torch.device:
    """The device of `--device`: auto (CUDA where present, else the CPU), cpu, cuda or cuda:N.

    Raises:
        TrainingError: that GPU is not there.
    """
    available = torch.cuda.is_available()
    if name == "auto":
        name = "cuda" if available else "cpu"
    device = torch.device(name)
    if device.type == "cpu":
        return device
    if torch.version.cuda is None:
        raise TrainingError(
            f"device {name} is not there: PyTorch {torch.__version__} is built without CUDA; "
            "install a CUDA build of it, or give --device cpu"
        )
    if not available:
        raise TrainingError(f"device {name} is not there: PyTorch finds no GPU; check nvidia-smi, or give --device cpu")
    count = torch.cuda.device_count()
    if (device.index or 0) >= count:
        raise TrainingError(
            f"device {name} is not there: the GPUs of this machine are cuda:0 to cuda:{count - 1}; give one of them"
        )
    return torch.device("cuda", device.index or 0)


def device_name(device: torch.device) -> str:
    """For people: "cpu", or a GPU with its model's name."""
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)


def chosen_precision(options: TrainingOptions, device: torch.device) -> Precision:
    """The precision of `--precision` on a device: never AUTO, which is bfloat16 products on a GPU that has them.

    Raises:
        TrainingError: bfloat16 is asked for where no GPU computes it.
    """
    supported = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    if options.precision is Precision.AUTO:
        return Precision.BFLOAT16 if supported else Precision.FLOAT32
    if options.precision is Precision.BFLOAT16 and not supported:
        raise TrainingError(
            f"precision {options.precision} needs a GPU that computes bfloat16, not {device_name(device)}; "
            f"give --precision {Precision.FLOAT32}, or leave it out"
        )
    return options.precision


def multiply_in_bfloat16(model: HyTRec) -> None:
    """Compute the products of a model's linear layers in bfloat16 from now on, in place; its weights stay float32.

    Everything else stays float32: norms, softmax, decay, the delta rule and the state, the losses, and the narrow
    projections of gate, write strength, router and score, whose errors last for the rest of a history. This is
    autocast where it pays and nowhere else: under `torch.autocast` the decay would be computed from bfloat16, in
    which 0.998 and 1 are one number.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear) and module.out_features >= model.width:
            module.forward = _Bfloat16Product(module)  # type: ignore[assignment,method-assign]


class _Bfloat16Product:
    """A linear layer with float32 weights whose product is bfloat16: float32 in and out."""

    def __init__(self, linear: nn.Linear) -> None:
        self._linear = linear

    def __call__(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        product = F.linear(x.bfloat16(), self._linear.weight.bfloat16()).float()
        return product if self._linear.bias is None else product + self._linear.bias
