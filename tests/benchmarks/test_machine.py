from __future__ import annotations

import platform
from pathlib import Path

from measures.machine import cpu_model


def test_the_processor_is_named_as_the_system_names_it(tmp_path: Path) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text("processor\t: 0\nmodel name\t: Fast: 9000\n\nprocessor\t: 1\nmodel name\t: Fast: 9000\n")
    assert cpu_model(file) == "Fast: 9000"


def test_a_system_that_does_not_name_it_gives_its_architecture(tmp_path: Path) -> None:
    assert cpu_model(tmp_path / "none") == platform.machine()
