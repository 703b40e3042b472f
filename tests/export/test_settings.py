import json
from pathlib import Path

import pytest

from hytrec.contract import DType
from hytrec_export.errors import OptionError, RepositoryError
from hytrec_export.settings import FILE_NAME, Limits, ServingSettings


def test_settings_come_back_as_they_were_saved(tmp_path: Path, settings: ServingSettings) -> None:
    settings.save(tmp_path)
    assert ServingSettings.load(tmp_path) == settings


def test_key_types_are_the_vocabularys(settings: ServingSettings) -> None:
    assert settings.key_type(DType.ITEM_KEY) is DType.INT64
    assert settings.key_type(DType.BEHAVIOR_KEY) is DType.BYTES
    assert settings.key_type(DType.UINT8) is DType.UINT8


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        RepositoryError, match=r"serving.json is missing; build the repository with: hytrec-export build"
    ):
        ServingSettings.load(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format_version": 1}', '{"format_version": 1, "fingerprint": 3}'])
def test_a_damaged_file_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE_NAME).write_text(text)
    with pytest.raises(RepositoryError, match=r"serving.json is damaged \(.*\); build the repository again$"):
        ServingSettings.load(tmp_path)


def test_another_format_version_is_refused(tmp_path: Path, settings: ServingSettings) -> None:
    settings.save(tmp_path)
    values = json.loads((tmp_path / FILE_NAME).read_text())
    (tmp_path / FILE_NAME).write_text(json.dumps(values | {"format_version": 7}))
    with pytest.raises(RepositoryError, match=r"serving.json has format version 7; this hytrec-export reads 1"):
        ServingSettings.load(tmp_path)


@pytest.mark.parametrize(("name", "value", "minimum"), [("max_events", 0, 1), ("max_excluded", -1, 0)])
def test_a_limit_below_its_minimum_is_refused(name: str, value: int, minimum: int) -> None:
    with pytest.raises(OptionError, match=rf"^{name} is {value}; it must be at least {minimum}$"):
        Limits(**{name: value})


def test_a_limit_of_zero_in_the_file_is_damage(tmp_path: Path, settings: ServingSettings) -> None:
    settings.save(tmp_path)
    text = (tmp_path / FILE_NAME).read_text()
    (tmp_path / FILE_NAME).write_text(text.replace('"max_batch": 16', '"max_batch": 0'))
    with pytest.raises(RepositoryError, match=r"damaged \(max_batch is 0; it must be at least 1\)"):
        ServingSettings.load(tmp_path)
