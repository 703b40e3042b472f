import pytest

from hytrec.errors import ConfigError
from hytrec.training.options import TrainingOptions


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "epochs is 0; it must be at least 1"),
        ({"batch_events": -1}, "batch_events is -1; it must be at least 1"),
        ({"max_minutes": 0.0}, "max_minutes is 0.0; it must be over 0"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0; it must be over 0"),
        ({"checkpoint_minutes": 0.0}, "checkpoint_minutes is 0.0; it must be over 0"),
        ({"log_steps": 0}, "log_steps is 0; it must be at least 1"),
        ({"item_rate": 0.0}, "item_rate is 0.0; it must be over 0"),
        ({"seed": -1}, "seed is -1; it must be at least 0"),
        ({"unknown_rate": 1.0}, r"unknown_rate is 1.0; it must be in \[0, 1\)"),
    ],
)
def test_an_option_out_of_range_is_refused(changes: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainingOptions(**changes)  # type: ignore[arg-type]


def test_options_are_plain_values() -> None:
    assert TrainingOptions(seed=3).to_dict()["seed"] == 3
