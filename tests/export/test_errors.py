from __future__ import annotations

import re

import pytest

from hytrec.errors import HytrecError
from hytrec_export import errors


def classes() -> set[str]:
    return {name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, HytrecError)}


def test_every_error_is_public() -> None:
    assert set(errors.__all__) == classes() - {"HytrecError"}


@pytest.mark.parametrize("name", errors.__all__)
def test_the_drawn_tree_is_the_real_one(name: str) -> None:
    """An error is drawn two spaces to the right of its base."""
    lines = [line for line in (errors.__doc__ or "").splitlines() if re.match(r" *\w+Error\b", line)]
    places = [(len(line) - len(line.lstrip()), line.split()[0]) for line in lines]
    position = [word for _, word in places].index(name)
    indent = places[position][0]
    base = next(word for other, word in reversed(places[:position]) if other == indent - 2)
    assert getattr(errors, name).__bases__[0].__name__ == base
