"""A short soak of a real server; and what a soak would say if something had gone wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from soaking.actors import Actor
from soaking.running import soak

pytestmark = pytest.mark.e2e

SECONDS = 20.0


def test_a_short_soak_finds_nothing(built: Any, tmp_path: Path) -> None:
    found = soak(built.repository, tmp_path, seconds=SECONDS, seed=11)
    assert found.failures() == []
    assert found.comparison.compared > 50
    assert found.comparison.unknown == 0
    assert found.cut > 0
    outcomes = {actor: sum(n for (who, _), n in found.outcomes.items() if who is actor) for actor in Actor}
    assert all(outcomes.values())
    json.dumps(found.to_dict())
