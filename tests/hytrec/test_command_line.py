from __future__ import annotations

import pytest

from hytrec.command_line import run_program
from hytrec.errors import HytrecError

EXTRAS = {"torch": "train"}


def test_a_program_that_ends_well_is_left_alone() -> None:
    ran: list[bool] = []
    run_program(lambda: ran.append(True), extras=EXTRAS)
    assert ran == [True]


def failing(error: Exception) -> None:
    raise error


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (HytrecError("width 7 is odd"), "error: width 7 is odd\n"),
        (
            ModuleNotFoundError("No module named 'torch.nn'", name="torch.nn"),
            "error: torch is not installed; run: pip install 'hytrec-export[train]'\n",
        ),
    ],
)
def test_what_a_user_can_mend_is_one_line(error: Exception, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run_program(lambda: failing(error), extras=EXTRAS)
    assert ended.value.code == 1
    assert capsys.readouterr().err == line


@pytest.mark.parametrize(
    "error", [ZeroDivisionError(), ModuleNotFoundError("no", name="mistyped"), ModuleNotFoundError("no")]
)
def test_anything_else_keeps_its_traceback(error: Exception) -> None:
    with pytest.raises(type(error)):
        run_program(lambda: failing(error), extras=EXTRAS)
