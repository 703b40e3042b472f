"""A training step on other devices: on `meta`, which needs no GPU, and on CUDA where there is one.

This file needs no conftest and no DuckDB, so that it runs on a machine that has PyTorch with CUDA and pytest alone:

    PYTHONPATH=. python -m pytest -c /dev/null --noconftest -rs tests/hytrec/training/test_devices.py
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from hytrec.config import ModelConfig
from hytrec.data.histories import Histories
from hytrec.data.item_features import ItemFeatures
from hytrec.data.sampling import training_batches
from hytrec.errors import ConfigError, TrainingError
from hytrec.modeling.delta_rule import DeltaRule, chunk_by_chunk, chunked
from hytrec.modeling.model import HyTRec, build_model
from hytrec.training import devices, losses
from hytrec.training.devices import chosen_device, chosen_precision, multiply_in_bfloat16
from hytrec.training.options import Precision, TrainingOptions
from hytrec.training.prefetch import StepBatch, in_background
from hytrec.training.side_information import add_features
from hytrec.training.trainer import StepLoss, Trainer

ITEMS = 60
CONFIG = ModelConfig(
    items=ITEMS, behaviors=2, width=32, heads=2, tadn_layers=1, softmax_layers=1, window=6, experts=2, dropout=0.0
)
OPTIONS = TrainingOptions(
    epochs=2,
    batch_events=512,
    positions=4,
    max_history=80,
    negatives=ITEMS,  # all of them: no draw differs between devices
    learning_rate=1e-3,
    warmup_steps=3,
)
on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch finds no CUDA GPU here")


@pytest.fixture(scope="module")
def log() -> Histories:
    random = np.random.default_rng(0)
    lengths = random.integers(4, 90, 40)
    starts = random.integers(0, ITEMS, lengths.size)
    return Histories(
        user_keys=np.arange(lengths.size),
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        item_rows=np.concatenate([(s + np.arange(n)) % ITEMS + 1 for s, n in zip(starts, lengths, strict=True)]),
        behavior_rows=random.integers(0, 3, lengths.sum()),
        times=np.concatenate([10**9 + 3600 * np.arange(n) for n in lengths]),
    )


def new_model(device: str, *, dropout: float = 0.0) -> HyTRec:
    torch.manual_seed(0)
    model = build_model(replace(CONFIG, dropout=dropout))
    return model.to(device)


def batches(log: Histories, options: TrainingOptions = OPTIONS) -> Iterator[StepBatch]:
    for batch in training_batches(
        log,
        items=ITEMS,
        max_history=options.max_history,
        batch_events=options.batch_events,
        positions=options.positions,
        unknown_rate=0.1,
        random=np.random.default_rng(0),
    ):
        yield StepBatch.of(batch)


class FromTheHost(TorchDispatchMode):
    """Operators that make or take a tensor of the CPU; the optimizer's step counters are scalars of its own."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[str] = []
        self.seen = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        tensors = [value for value in (*args, *(kwargs or {}).values(), result) if isinstance(value, Tensor)]
        self.seen += 1
        if any(tensor.device.type == "cpu" and tensor.dim() for tensor in tensors):
            self.found.append(str(func))
        return result


@pytest.mark.parametrize("delta_rule", [chunk_by_chunk, chunked])
@pytest.mark.parametrize("precision", [Precision.FLOAT32, Precision.BFLOAT16])
@pytest.mark.parametrize(("negatives", "max_history"), [(5, 80), (ITEMS, 80), (5, 20)], ids=["sampled", "full", "long"])
def test_a_whole_step_stays_on_the_device(
    log: Histories,
    delta_rule: DeltaRule,
    precision: Precision,
    negatives: int,
    max_history: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On the meta device, once warm, nothing comes from the host: forward, losses, backward, optimizer, average."""
    monkeypatch.setattr(losses, "chunk_by_chunk", delta_rule)
    options = replace(OPTIONS, negatives=negatives, max_history=max_history)
    trainer = Trainer(new_model("meta", dropout=0.2), log, options, precision=precision)
    drawn = (batch for batch in batches(log, options) if (batch.batch.lanes is not None) is (max_history < 80))
    batch = next(drawn).map(lambda tensor: tensor.to("meta"))
    trainer.model.train()
    trainer.step(batch)
    with FromTheHost() as host:
        result = trainer.step(batch)
    assert {loss.device.type for loss in result} == {"meta"}
    assert {parameter.grad.device.type for parameter in trainer.model.parameters() if parameter.grad is not None} == {
        "meta"
    }
    assert host.found == []
    assert host.seen > 500


def test_a_step_with_features_stays_on_the_device(log: Histories) -> None:
    features = ItemFeatures.of(["odd", "even"], np.arange(1, ITEMS + 1), np.arange(ITEMS) % 2, items=ITEMS)
    model = new_model("cpu")
    cold = add_features(model, features, log)
    trainer = Trainer(model.to("meta"), log, OPTIONS, cold=cold)
    batch = next(batches(log, OPTIONS)).map(lambda tensor: tensor.to("meta"))
    trainer.model.train()
    trainer.step(batch)
    with FromTheHost() as host:
        trainer.step(batch)
    assert host.found == []


def test_a_tensor_from_the_host_is_found(log: Histories, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check above can fail."""

    def from_host(self: Any, batch: int) -> Any:
        return HyTRec.empty_state(self, batch)._replace(last_time=torch.zeros(batch, 1, dtype=torch.int64))

    model = new_model("meta")
    monkeypatch.setattr(model, "empty_state", lambda batch: from_host(model, batch))
    batch = next(batches(log)).map(lambda tensor: tensor.to("meta"))
    with FromTheHost() as host:
        try:
            Trainer(new_model("meta"), log, OPTIONS)
            losses.encode_batch(model, batch.batch)
        except RuntimeError as error:
            host.found.append(str(error))
    assert host.found


def test_products_in_bfloat16_leave_the_rest_in_float32(log: Histories) -> None:
    exact, rounded = new_model("cpu"), new_model("cpu")
    multiply_in_bfloat16(rounded)
    dtypes: set[torch.dtype] = set()
    for module in rounded.modules():
        module.register_forward_hook(lambda _module, _inputs, output: dtypes.update(found_dtypes(output)))
    batch = next(batches(log)).batch
    encoded = {name: losses.encode_batch(model, batch) for name, model in (("exact", exact), ("rounded", rounded))}
    assert dtypes <= {torch.float32, torch.int64, torch.bool}
    difference = (encoded["rounded"].outputs - encoded["exact"].outputs).abs().max()
    assert 0 < difference < 0.3
    multiply_in_bfloat16(exact)
    changed = {name for name, module in exact.named_modules() if "forward" in vars(module)}
    assert changed >= {"layers.0.key", "layers.0.ffn.gate", "user_read", "reranker.mixture.down"}
    narrow = {"layers.0.beta", "layers.0.decay.gate", "reranker.score", "reranker.mixture.router"}
    assert narrow <= dict(exact.named_modules()).keys() - changed
    assert exact.state_dict().keys() == new_model("cpu").state_dict().keys()


def found_dtypes(output: object) -> set[torch.dtype]:
    if isinstance(output, Tensor):
        return {output.dtype}
    return {dtype for part in output for dtype in found_dtypes(part)} if isinstance(output, tuple) else set()


def test_on_the_cpu_auto_is_float32() -> None:
    assert chosen_precision(TrainingOptions(), torch.device("cpu")) is Precision.FLOAT32


@pytest.mark.parametrize(
    ("cuda", "gpus", "name", "message"),
    [
        (
            None,
            0,
            "cuda",
            r"device cuda is not there: PyTorch \S+ is built without CUDA; install a CUDA build of it, or",
        ),
        (
            "13.0",
            0,
            "cuda:1",
            "device cuda:1 is not there: PyTorch finds no GPU; check nvidia-smi, or give --device cpu",
        ),
        ("13.0", 2, "cuda:2", "the GPUs of this machine are cuda:0 to cuda:1; give one of them"),
    ],
)
def test_a_device_that_is_not_there_is_told(
    cuda: str | None, gpus: int, name: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    with pytest.raises(TrainingError, match=message):
        chosen_device(name)


@pytest.mark.parametrize(("gpus", "chosen"), [(0, "cpu"), (1, "cuda:0")])
def test_auto_takes_a_gpu_where_there_is_one(gpus: int, chosen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert chosen_device("auto") == torch.device(chosen)


def test_an_unknown_device_is_refused() -> None:
    with pytest.raises(ConfigError, match="device 'gpu' is unknown; give auto, cpu, cuda, or cuda:N as cuda:0"):
        TrainingOptions(device="gpu")


def test_bfloat16_without_a_gpu_for_it_is_refused() -> None:
    message = "precision bf16-mixed needs a GPU that computes bfloat16, not cpu; give --precision 32-true, or leave"
    with pytest.raises(TrainingError, match=message):
        chosen_precision(TrainingOptions(precision=Precision.BFLOAT16), torch.device("cpu"))


def test_items_made_in_the_background_are_the_same_and_so_are_errors() -> None:
    assert list(in_background(iter(range(50)), ahead=2)) == list(range(50))

    def failing() -> Iterator[int]:
        yield 1
        raise KeyError("lost")

    items = in_background(failing())
    assert next(items) == 1
    with pytest.raises(KeyError, match="lost"):
        next(items)


def test_an_iterator_that_is_closed_early_ends_its_thread() -> None:
    ended: list[bool] = []

    def endless() -> Iterator[int]:
        try:
            while True:
                yield 1
        finally:
            ended.append(True)

    source = endless()
    items = in_background(source, ahead=2)
    next(items)
    items.close()  # type: ignore[attr-defined]
    source.close()  # type: ignore[attr-defined]  # a thread that still ran would be using it: ValueError
    assert ended == [True]


def trained_for(device: str, log: Histories, precision: Precision, epochs: int = 2) -> tuple[HyTRec, list[StepLoss]]:
    trainer = Trainer(new_model(device), log, OPTIONS, precision=precision)
    return trainer.model, [loss for number in range(epochs) for loss in trainer.epoch(number)]


def totals(steps: list[StepLoss]) -> Tensor:
    return torch.tensor([step.total for step in steps])


@pytest.mark.gpu
@on_a_gpu
def test_cuda_trains_as_the_cpu_does(log: Histories) -> None:
    """From one seed, in float32, over ten steps of Adam at 1e-3: losses to 1e-4 relative, weights to 2e-4."""
    model, steps = trained_for("cpu", log, Precision.FLOAT32)
    there, steps_there = trained_for("cuda", log, Precision.FLOAT32)
    assert len(steps) == len(steps_there) > 5
    torch.testing.assert_close(totals(steps_there), totals(steps), rtol=1e-4, atol=0)
    for name, weights in model.state_dict().items():
        difference = float((there.state_dict()[name].cpu() - weights).abs().max())
        assert difference < 2e-4, name


@pytest.mark.gpu
@on_a_gpu
def test_cuda_repeats_itself_within_its_sums(log: Histories) -> None:
    _, once = trained_for("cuda", log, Precision.FLOAT32)
    _, again = trained_for("cuda", log, Precision.FLOAT32)
    torch.testing.assert_close(totals(again), totals(once), rtol=1e-4, atol=0)


@pytest.mark.gpu
@on_a_gpu
def test_bfloat16_products_learn_as_float32_does(log: Histories) -> None:
    """Loosely: the loss of every step to 3%; weights stay float32."""
    _, steps = trained_for("cuda", log, Precision.FLOAT32)
    model, rounded = trained_for("cuda", log, Precision.BFLOAT16)
    torch.testing.assert_close(totals(rounded), totals(steps), rtol=0.03, atol=0)
    assert not torch.equal(totals(rounded), totals(steps))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


@pytest.mark.gpu
@on_a_gpu
def test_a_run_trained_on_cuda_loads_on_the_cpu(log: Histories, tmp_path: Path) -> None:
    for package in ("msgspec", "safetensors"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    from hytrec.data.vocabulary import Vocabulary  # noqa: PLC0415  as above
    from hytrec.run_folder import load_run  # noqa: PLC0415
    from hytrec.training.loop import train  # noqa: PLC0415

    vocabulary = Vocabulary(np.arange(ITEMS), [b"view", b"buy"])
    run: Callable[..., Any] = lambda **given: train(  # noqa: E731
        log, vocabulary, output=tmp_path / "run", config=CONFIG, options=OPTIONS, **given
    )
    trained = run()
    loaded = load_run(tmp_path / "run")
    assert loaded.training["device"].startswith("cuda:0 (")
    assert loaded.training["precision"] in {"bf16-mixed", "32-true"}
    for name, weights in loaded.model.state_dict().items():
        assert weights.device.type == "cpu"
        assert torch.equal(weights, trained.model.state_dict()[name])
    assert run(resume=True).metrics == trained.metrics  # finished: loads the checkpoint of CUDA tensors
    assert devices.device_name(torch.device("cuda:0")) == loaded.training["device"]
