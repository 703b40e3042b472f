from __future__ import annotations

import re
from pathlib import Path

import pytest

from hytrec_export.errors import OptionError
from hytrec_export.item_lists import ELIGIBLE_VARIABLE, FALLBACK_VARIABLE, ItemLists, listed_keys


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "shop=1.txt"
    path.write_text("100\n")
    return path


def test_lists_go_to_the_servers_models_and_come_back(file: Path) -> None:
    lists = ItemLists.parse([f"shop={file}", f"kids={file}"], file)
    assert lists == ItemLists(eligible={"shop": file, "kids": file}, fallback=file)
    assert ItemLists.from_environment(lists.to_environment()) == lists
    assert set(lists.to_environment()) == {ELIGIBLE_VARIABLE, FALLBACK_VARIABLE}


def test_without_lists_there_is_nothing_to_say() -> None:
    assert ItemLists.parse([], None).to_environment() == {}
    assert ItemLists.from_environment({}) == ItemLists()


@pytest.mark.parametrize("given", ["shop", "=file", "shop=", "x" * 65 + "=file"])
def test_a_list_has_a_name_and_a_file(given: str) -> None:
    message = (
        f"eligible is {given!r}; write it as NAME=FILE, the name of 1 to 64 bytes, "
        "the file with an item key on every line"
    )
    with pytest.raises(OptionError, match=f"^{re.escape(message)}$"):
        ItemLists.parse([given], None)


def test_a_name_is_given_once(file: Path) -> None:
    message = "eligible 'shop' is given twice; give every list a name of its own"
    with pytest.raises(OptionError, match=f"^{message}$"):
        ItemLists.parse([f"shop={file}", f"shop={file}"], None)


@pytest.mark.parametrize("option", ["eligible", "fallback"])
def test_a_missing_file_is_told_before_the_start(tmp_path: Path, option: str) -> None:
    missing = tmp_path / "none.txt"
    given = ([f"shop={missing}"], None) if option == "eligible" else ([], missing)
    message = f"there is no file {missing}; give one with an item key on every line"
    with pytest.raises(OptionError, match=f"^{re.escape(message)}$"):
        ItemLists.parse(*given)


@pytest.mark.parametrize("text", ["shop", "[1]", '"shop"'])
def test_a_variable_of_another_form_is_told(text: str) -> None:
    message = f'{ELIGIBLE_VARIABLE} is {text!r}; it must be JSON such as {{"shop": "/lists/shop.txt"}}'
    with pytest.raises(OptionError, match=f"^{re.escape(message)}$"):
        ItemLists.from_environment({ELIGIBLE_VARIABLE: text})


def test_blanks_belong_to_a_key_and_a_byte_order_mark_does_not(tmp_path: Path) -> None:
    path = tmp_path / "keys.txt"
    path.write_bytes(b"\xef\xbb\xbf a\r\nb \n\n \t\r\nc\x0bd\xff")
    assert listed_keys(path) == [b" a", b"b ", b"c\x0bd\xff"]
