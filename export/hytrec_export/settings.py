"""Settings of a build that its Triton python models read: `serving.json` at the root of a model repository."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field, replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Self

from hytrec.config import ModelConfig
from hytrec.contract import DType, Sizes, Tensor
from hytrec.signature import ENSEMBLES, MAX_KEY_BYTES
from hytrec_export.errors import OptionError, RepositoryError

if TYPE_CHECKING:  # numpy: --help is not to wait for it
    from hytrec.data.vocabulary import Vocabulary

FILE_NAME = "serving.json"
VOCABULARY_FILE = "vocabulary.npz"
LIVE_TABLES_FILE = "live_tables.json"
"""Which tables of the graphs change while they are served; of a build with reserved rows."""
CATALOG_FILE = "catalog.npz"
"""What `hytrec-export items` has changed since the build."""
NEW_CATALOG_FILE = CATALOG_FILE + ".new"
CATALOG_FILES = frozenset({CATALOG_FILE, NEW_CATALOG_FILE})
"""The second one is left by a command that died."""
CALL_KEY_VARIABLE = "HYTREC_CALL_CONTEXT_KEY"
"""Environment variable of the server: hex digits of the key that signs call contexts, made anew at each start."""
SERVER_FOLDER_VARIABLE = "HYTREC_SERVER_FOLDER"
"""Environment variable of the server: a folder of its own, where its python models leave their metrics and meet."""
METRICS_ADDRESS_VARIABLE = "HYTREC_METRICS_ADDRESS"
"""Environment variable of the server: where its python models read Triton's metrics, http://host:port or unix:PATH."""
FORMAT_VERSION = 1
CHECKED_SCORES = 1 << 24
"""Scores of one run of a check; PyTorch and onnxruntime hold several arrays of as many, 64 MB each."""
_ELEMENT_BYTES = {
    DType.FLOAT32: 4,
    DType.INT64: 8,
    DType.UINT8: 1,
    DType.BOOL: 1,
    DType.BYTES: 4 + MAX_KEY_BYTES,  # a length before every string; user ids are as long as keys
}
_ENVELOPE_BYTES = 1 << 16
"""For names, shapes, request parameters and the encoding around the tensors of a request."""
_RANGES = {
    "max_events": (1, 1 << 20),
    "max_candidates": (1, 1 << 16),
    "max_excluded": (0, 1 << 16),
    "max_batch": (1, 1 << 10),
}
"""Even with string keys the largest request stays below a third of 2 GiB, the largest gRPC message."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of a request and of a server batch; the defaults of the command line stand here."""

    max_events: Annotated[int, "Maximum new events per request."] = 10_240
    max_candidates: Annotated[int, "Maximum candidates per request."] = 1_024
    max_excluded: Annotated[int, "Maximum excluded items per request."] = 4_096
    max_batch: Annotated[int, "Maximum dynamic batch size."] = 64

    def __post_init__(self) -> None:
        """Raises: OptionError: a limit is out of its range."""
        for name, (minimum, maximum) in _RANGES.items():
            value = getattr(self, name)
            if not minimum <= value <= maximum:
                raise OptionError(f"{name} is {value}; it must be {minimum} to {maximum:,}")


@dataclass(frozen=True, kw_only=True)
class ServingSettings:
    """Sizes, key types, limits and fingerprint of a built repository.

    Args:
        precision: class of the graphs' numbers, of `hytrec_export.options.Precision`; states of one class are not
            used by graphs of another.
        reserved: item rows between those of the vocabulary and the unknown item's, for items that come later.
    """

    fingerprint: str
    items: int
    sizes: Sizes
    item_key_type: DType
    behavior_key_type: DType
    limits: Limits = field(default_factory=Limits)
    precision: str = "float32"
    reserved: int = 0

    @classmethod
    def of(
        cls,
        fingerprint: str,
        config: ModelConfig,
        vocabulary: Vocabulary,
        limits: Limits | None = None,
        precision: str = "float32",
        reserved: int = 0,
    ) -> Self:
        """Settings of a build of a model; the limits are the defaults if none are given."""
        return cls(
            fingerprint=fingerprint,
            items=config.items,
            sizes=config.sizes(),
            item_key_type=vocabulary.item_key_type,
            behavior_key_type=vocabulary.behavior_key_type,
            limits=limits or Limits(),
            precision=precision,
            reserved=reserved,
        )

    @property
    def item_rows(self) -> int:
        """Item rows that there are, reserved ones included; the unknown item's is the next."""
        return self.items + self.reserved

    @property
    def checked_limits(self) -> Limits:
        """The limits, with no more requests a batch than a check of the whole catalogue's scores has memory for."""
        most = max(1, CHECKED_SCORES // self.item_rows)
        return replace(self.limits, max_batch=min(self.limits.max_batch, most))

    def key_type(self, dtype: DType) -> DType:
        """Element type of a tensor: the two key types become int64 or bytes."""
        if dtype is DType.ITEM_KEY:
            return self.item_key_type
        return self.behavior_key_type if dtype is DType.BEHAVIOR_KEY else dtype

    def max_request_bytes(self) -> int:
        """Upper bound of the gRPC message of a valid request, in bytes."""
        lengths = {"T": self.limits.max_events, "N": self.limits.max_candidates, "X": self.limits.max_excluded}

        def size(tensor: Tensor) -> int:
            elements = prod(axis if isinstance(axis, int) else lengths[axis] for axis in tensor.axes)
            return elements * _ELEMENT_BYTES[self.key_type(tensor.dtype)]

        return _ENVELOPE_BYTES + max(sum(map(size, endpoint.inputs)) for endpoint in ENSEMBLES)

    def save(self, repository: Path) -> None:
        """Write `serving.json` into a repository."""
        text = json.dumps({"format_version": FORMAT_VERSION, **asdict(self)}, indent=2)
        (repository / FILE_NAME).write_text(text + "\n")

    @classmethod
    def load(cls, repository: Path) -> ServingSettings:
        """Read `serving.json` from a repository.

        Raises:
            RepositoryError: the file is missing, damaged or of another format version.
        """
        path = repository / FILE_NAME
        try:
            values = json.loads(path.read_text())
            version = values.pop("format_version")
        except FileNotFoundError:
            raise RepositoryError(f"{path} is missing; build the repository with: hytrec-export build RUN") from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise RepositoryError(f"{path} is damaged ({error}); build the repository again") from error
        if version != FORMAT_VERSION:
            raise RepositoryError(f"{path} has format version {version}; this hytrec-export reads {FORMAT_VERSION}")
        try:
            return cls(
                fingerprint=values["fingerprint"],
                items=values["items"],
                sizes=Sizes(**values["sizes"]),
                item_key_type=DType(values["item_key_type"]),
                behavior_key_type=DType(values["behavior_key_type"]),
                limits=Limits(**values["limits"]),
                precision=values.get("precision", cls.precision),
                reserved=int(values.get("reserved", cls.reserved)),
            )
        except (KeyError, TypeError, ValueError, OptionError) as error:
            raise RepositoryError(f"{path} is damaged ({error}); build the repository again") from error


def server_folder() -> Path | None:
    """The folder of the server that this process is a python model of; None where the server names none."""
    folder = os.environ.get(SERVER_FOLDER_VARIABLE)
    return Path(folder) if folder else None
