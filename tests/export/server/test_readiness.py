from pathlib import Path

from hytrec_export.server.readiness import ModelStatus, failure_of, read_index, responds_ready


def model(name: str, state: str, reason: str = "") -> ModelStatus:
    return ModelStatus(name=name, state=state, reason=reason)


def test_the_reason_is_one_line() -> None:
    reason = 'Internal: ValueError: no "table"; build again\n\nAt:\n  /repo/m2/1/model.py(4): initialize\n'
    models = [model("chain", ""), model("m1", "READY"), model("m2", "UNAVAILABLE", reason)]
    assert failure_of(models) == 'model m2 failed to load: ValueError: no "table"; build again'
    assert [one.name for one in models if one.failed] == ["chain", "m2"]


def test_models_that_load_have_not_failed() -> None:
    assert not model("m1", "LOADING").failed
    assert model("m1", "LOADING").loading
    assert failure_of([model("m1", "LOADING", "so far")]) is None
    assert failure_of([model("chain", "")]) is None


def test_a_port_where_nobody_listens_is_not_ready(tmp_path: Path) -> None:
    assert read_index(tmp_path / "http.sock", admin_key="k") is None
    assert read_index(("127.0.0.1", 1), admin_key="k") is None
    assert not responds_ready(("127.0.0.1", 1))
