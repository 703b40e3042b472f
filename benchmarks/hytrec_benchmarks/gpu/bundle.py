"""The folder that travels to the GPU machine: weights, histories, golden outputs, graphs. Read by torch and numpy."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hytrec.config import ModelConfig
from hytrec.contract import DType
from hytrec.errors import HytrecError
from hytrec.modeling.model import HyTRec, build_model
from hytrec_export.settings import Limits, ServingSettings

FORMAT_VERSION = 2
CONFIG_FILE = "bundle.json"
WEIGHTS_FILE = "weights.npz"
CASES_FILE = "cases.npz"
GRAPHS_FOLDER = "graphs"
MAX_BYTES = 64 << 20

Arrays = dict[str, NDArray[Any]]


class BundleError(HytrecError):
    """A folder of `prepare` cannot be used."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """One history and its golden outputs, all from the recurrence in float64.

    Args:
        name: what the history is.
        item_rows, behavior_rows, times: (T,) int64 each.
        state: the tensors of `hytrec.signature.STATE` after the last event, batch axis first, float64 or int64.
        now_s: the query's unix time.
        candidate_rows: (N,) int64.
        scores: (N,) float64, of the candidates.
        catalogue: (I + 2,) float64, the retriever's score of every item row.
    """

    name: str
    item_rows: NDArray[np.int64]
    behavior_rows: NDArray[np.int64]
    times: NDArray[np.int64]
    state: Arrays
    now_s: int
    candidate_rows: NDArray[np.int64]
    scores: NDArray[np.float64]
    catalogue: NDArray[np.float64]

    def __len__(self) -> int:
        """T, its events."""
        return int(self.times.size)


class Bundle:
    """A folder of `prepare`, opened when first asked for something.

    Every property raises BundleError where the folder is none, or of another version.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def description(self) -> dict[str, Any]:
        """What `prepare` wrote about the model, its source and the versions it was made with."""
        path = self.folder / CONFIG_FILE
        try:
            found = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise BundleError(
                f"{self.folder} is no folder of `hytrec_benchmarks.gpu prepare` ({path.name}: {error}); prepare one"
            ) from error
        if not isinstance(found, dict) or found.get("format_version") != FORMAT_VERSION:
            raise BundleError(f"{path} is of another version than {FORMAT_VERSION}; prepare the folder again")
        return found

    @property
    def config(self) -> ModelConfig:
        """Sizes of the model. Plain Python, since the GPU machine has no package that checks documents."""
        try:
            return ModelConfig(**self.description["model"])
        except (KeyError, TypeError) as error:
            raise BundleError(f"{self.folder / CONFIG_FILE} describes no model ({error}); prepare it again") from error

    def settings(self) -> ServingSettings:
        """Settings of a build of this model with the default limits."""
        keys = self.description["keys"]
        return ServingSettings(
            fingerprint=self.description["fingerprint"],
            items=self.config.items,
            sizes=self.config.sizes(),
            item_key_type=DType(keys["item"]),
            behavior_key_type=DType(keys["behavior"]),
            limits=Limits(),
        )

    def model(self) -> HyTRec:
        """The trained model: float32, evaluation mode, on the CPU."""
        model = build_model(self.config)
        with np.load(self.folder / WEIGHTS_FILE) as weights:
            model.load_state_dict({name: torch.from_numpy(weights[name]) for name in weights.files})
        return model.eval().requires_grad_(requires_grad=False)

    @cached_property
    def cases(self) -> list[Case]:
        """Every history with its golden outputs, shortest first."""
        with np.load(self.folder / CASES_FILE) as stored:
            arrays = dict(stored)
        cases = [_case(name, arrays, number) for number, name in enumerate(self.description["cases"])]
        return sorted(cases, key=len)

    def graphs(self) -> dict[str, Path]:
        """Folder of every exported set of graphs, by `lowering-precision`."""
        folder = self.folder / GRAPHS_FOLDER
        return {path.name: path for path in sorted(folder.iterdir())} if folder.is_dir() else {}


def save_cases(path: Path, cases: Sequence[Case]) -> None:
    """Write all cases into one file."""
    arrays: Arrays = {}
    for number, case in enumerate(cases):
        fields: Mapping[str, Any] = {
            "item_rows": case.item_rows,
            "behavior_rows": case.behavior_rows,
            "times": case.times,
            "now_s": np.int64(case.now_s),
            "candidate_rows": case.candidate_rows,
            "scores": case.scores,
            "catalogue": case.catalogue,
            **{f"state.{name}": values for name, values in case.state.items()},
        }
        arrays |= {f"{number}/{name}": np.asarray(values) for name, values in fields.items()}
    np.savez_compressed(path, **arrays)


def save_weights(path: Path, model: HyTRec) -> None:
    """Write every tensor of the model's state dict."""
    np.savez(path, **{name: tensor.detach().cpu().numpy() for name, tensor in model.state_dict().items()})


def _case(name: str, arrays: Mapping[str, NDArray[Any]], number: int) -> Case:
    prefix = f"{number}/"
    own = {key.removeprefix(prefix): values for key, values in arrays.items() if key.startswith(prefix)}
    state = {key.removeprefix("state."): values for key, values in own.items() if key.startswith("state.")}
    fields = {key: values for key, values in own.items() if not key.startswith("state.")}
    return Case(name=name, state=state, now_s=int(fields.pop("now_s")), **fields)
