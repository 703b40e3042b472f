from __future__ import annotations

import pytest

from hytrec.progress_bar import progress_bar
from hytrec_export.progress import silent


def test_a_bar_is_full_at_the_end_and_leaves_stdout_alone(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("counting", 4) as advance:
        advance(1)
        print("a result")  # noqa: T201
    out, err = capsys.readouterr()
    assert out == "a result\n"
    assert "counting" in err
    assert "4/4" in err


def fail_after_one() -> None:
    with progress_bar("counting", 4) as advance:
        advance(1)
        raise ZeroDivisionError


def test_a_bar_stays_where_a_step_failed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ZeroDivisionError):
        fail_after_one()
    assert "1/4" in capsys.readouterr().err


def test_silence(capsys: pytest.CaptureFixture[str]) -> None:
    with silent("counting", 4) as advance:
        advance(1)
    assert capsys.readouterr() == ("", "")
