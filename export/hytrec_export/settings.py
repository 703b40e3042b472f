"""What the Triton python models need to know of a build: `serving.json` at the root of a model repository."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from hytrec.contract import DType, Sizes
from hytrec_export.errors import OptionError, RepositoryError

FILE_NAME = "serving.json"
VOCABULARY_FILE = "vocabulary.npz"
FORMAT_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Largest call a build accepts; one default each, the command line reads them from here."""

    max_events: int = 10_240
    max_candidates: int = 1_024
    max_excluded: int = 4_096
    max_batch: int = 64

    def __post_init__(self) -> None:
        """Raises: OptionError: a limit is below its minimum."""
        for name, minimum in (("max_events", 1), ("max_candidates", 1), ("max_excluded", 0), ("max_batch", 1)):
            value = getattr(self, name)
            if value < minimum:
                raise OptionError(f"{name} is {value}; it must be at least {minimum}")


@dataclass(frozen=True, kw_only=True)
class ServingSettings:
    """Sizes, key types, limits and fingerprint of a built repository."""

    fingerprint: str
    items: int
    sizes: Sizes
    item_key_type: DType
    behavior_key_type: DType
    limits: Limits = field(default_factory=Limits)

    def key_type(self, dtype: DType) -> DType:
        """Element type of a tensor: the two key types become int64 or bytes."""
        if dtype is DType.ITEM_KEY:
            return self.item_key_type
        return self.behavior_key_type if dtype is DType.BEHAVIOR_KEY else dtype

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
            )
        except (KeyError, TypeError, ValueError, OptionError) as error:
            raise RepositoryError(f"{path} is damaged ({error}); build the repository again") from error
