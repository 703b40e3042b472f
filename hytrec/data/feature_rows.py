"""What a training learned of items' features: the rows of items that come after it are made of them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from hytrec.data.item_columns import ItemColumn
from hytrec.errors import DataError

__all__ = ["ITEM_FEATURES_FILE", "FeatureRows"]

ITEM_FEATURES_FILE = "item_features.safetensors"
FORMAT_VERSION = "1"
_ROWS = "rows"


@dataclass(frozen=True, kw_only=True, eq=False)
class FeatureRows:
    """F features that items of the training shared.

    Args:
        columns: of the table of items, as `ItemTable` read them.
        names: (F,) as "genre=Action".
        rows: (F, D) float32.
    """

    columns: tuple[ItemColumn, ...]
    names: tuple[str, ...]
    rows: npt.NDArray[np.float32]

    @cached_property
    def _places(self) -> dict[str, int]:
        return {name: place for place, name in enumerate(self.names)}

    def item_row(self, features: Iterable[str]) -> npt.NDArray[np.float32] | None:
        """(D,) row of an item without events: the sum of its features' rows over the root of their number.

        Returns:
            None where the training knew none of the features; others are passed over.
        """
        known = sorted({self._places[name] for name in features if name in self._places})
        if not known:
            return None
        total = self.rows[known].sum(0, dtype=np.float64) / np.sqrt(len(known))
        return np.asarray(total, np.float32)

    def save(self, path: Path) -> None:
        """Write the file under a temporary name, then rename."""
        temporary = path.with_name(path.name + ".tmp")
        texts = {
            "format_version": FORMAT_VERSION,
            "columns": json.dumps([asdict(column) for column in self.columns]),
            "names": json.dumps(self.names),
        }
        save_file({_ROWS: self.rows}, temporary, metadata=texts)
        temporary.replace(path)

    @classmethod
    def load(cls, path: Path) -> FeatureRows:
        """Read a file.

        Raises:
            FileNotFoundError: there is none.
            DataError: it is damaged or of another format version.
        """
        try:
            with safe_open(path, "numpy") as file:
                texts = file.metadata() or {}
                rows = file.get_tensor(_ROWS)
            if texts["format_version"] != FORMAT_VERSION:
                raise DataError(
                    f"{path} has format version {texts['format_version']}; this hytrec reads {FORMAT_VERSION}: train "
                    "again"
                )
            columns = msgspec.json.decode(texts["columns"], type=tuple[ItemColumn, ...])
            names = msgspec.json.decode(texts["names"], type=tuple[str, ...])
        except FileNotFoundError:
            raise
        except (SafetensorError, OSError, KeyError, msgspec.DecodeError) as error:
            raise DataError(f"{path} is damaged ({error}); bring it back from a copy, or train again") from error
        if rows.dtype != np.float32 or rows.ndim != 2 or len(rows) != len(names) or not np.isfinite(rows).all():
            raise DataError(f"{path} is damaged (rows {rows.dtype} {rows.shape}); train again")
        return cls(columns=columns, names=names, rows=rows)
