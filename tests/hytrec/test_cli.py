from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from hytrec import cli
from hytrec.data.histories import Histories

TINY = [
    "--width=8",
    "--tadn-layers=1",
    "--softmax-layers=1",
    "--window=4",
    "--experts=2",
    "--epochs=2",
    "--batch-events=256",
    "--learning-rate=0.01",
]


@pytest.fixture(scope="module")
def events(log: Histories, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The log as CSV, keys of strings, columns of other names."""
    path = tmp_path_factory.mktemp("events") / "clicks.csv"
    with path.open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["who", "what", "when", "behavior"])
        for user in range(len(log)):
            history = log.history(user)
            rows = zip(history.item_rows, history.behavior_rows, history.times, strict=True)
            lines.writerows([f"u{user}", f"item-{item}", time, "view" if row else "buy"] for item, row, time in rows)
    return path


COLUMNS = ["--user-column=who", "--item-column=what", "--time-column=when"]


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Exit code of `hytrec` with these arguments."""
    monkeypatch.setattr("sys.argv", ["hytrec", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


@pytest.fixture(scope="module")
def run(events: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("cli") / "run"
    with pytest.MonkeyPatch.context() as monkeypatch:
        assert call(monkeypatch, "train", str(events), f"--output={output}", *COLUMNS, *TINY) == 0
    return output


def test_train_shows_progress_on_stderr_and_results_on_stdout(
    events: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "train", str(events), f"--output={tmp_path / 'run'}", *COLUMNS, *TINY) == 0
    out, err = capsys.readouterr()
    assert "epoch 1: loss" in err
    assert "events/s" in err
    assert "2 epochs" in out
    assert "retrieve-then-rerank" in out
    assert "memory half-life in events" in out


def test_train_prints_json(
    run: Path, events: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["train", str(events), f"--output={tmp_path}", *COLUMNS, *TINY, "--json", "--threads=1"]
    assert call(monkeypatch, *arguments) == 0
    values = json.loads(capsys.readouterr().out)
    assert set(values) == {"run", "log", "repeats", "metrics", "half_life_events"}
    assert json.loads((tmp_path / "log.json").read_text()) == values["log"]
    assert values["metrics"]["test"]["retriever"].keys() >= {"hr@10", "hr@500", "ndcg@10", "auc"}


def test_a_finished_training_resumes_to_the_same_run(
    run: Path, events: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (run / "weights.safetensors").read_bytes()
    assert call(monkeypatch, "train", str(events), f"--output={run}", *COLUMNS, *TINY, "--resume") == 0
    assert (run / "weights.safetensors").read_bytes() == before
    assert call(monkeypatch, "train", str(events), f"--output={run}", *COLUMNS, *TINY) == 1
    assert "error: " in capsys.readouterr().err


def test_evaluate_knows_the_log_and_stands_beside_the_baselines(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "evaluate", str(run), "--json") == 0
    values = json.loads(capsys.readouterr().out)
    names = {"retriever", "retrieve-then-rerank", "most-popular", "item-knn", "item-knn-recent", "proximity-knn"}
    assert set(values["metrics"]) == names
    assert values["part"] == "test"
    trained_on = json.loads((run / "metrics.json").read_text())["test"]
    assert {name: values["metrics"][name] for name in trained_on} == trained_on


def test_evaluate_prints_a_table(
    run: Path, events: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--events", str(events), *COLUMNS, "--part=validation", "--no-baselines", "--repeats=allow"]
    assert call(monkeypatch, "evaluate", str(run), *arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:2] == ["model", "HR@10"]
    assert lines[-1].endswith("users, validation part, repeats: allow; 2 could not be evaluated")


def test_a_listening_log_needs_no_option_and_keeps_its_protocol(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [f"{user},{play % 6},{10**9 + play}" for user in range(50) for play in range(40)]
    for part in (0, 1):
        (tmp_path / f"plays-{part}.csv").write_text("\n".join(["user_id,track_id,ts", *lines[part::2]]) + "\n")
    run = tmp_path / "run"
    files = [str(tmp_path / f"plays-{part}.csv") for part in (0, 1)]
    assert call(monkeypatch, "train", *files, f"--output={run}", *TINY, "--json") == 0
    out, err = capsys.readouterr()
    assert "read 2 files, text with separator ',' and a header; columns: user user_id, item track_id, time ts" in err
    assert "repeats: allow, as 85.0% of the events are of an item that the user had before (--repeats remove for" in err
    assert "of 50 users" in err
    assert json.loads(out)["repeats"] == "allow"
    assert call(monkeypatch, "evaluate", str(run), "--json") == 0
    values = json.loads(capsys.readouterr().out)
    assert {model["users"] for model in values["metrics"].values()} == {values["users"]} == {50}
    assert values["repeats"] == "allow"
    assert call(monkeypatch, "evaluate", str(run), "--repeats=remove") == 1
    assert "no user can be evaluated; the log needs users of three events or more whose last" in capsys.readouterr().err


def test_evaluate_without_a_log_to_go_by_is_told(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for file in run.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((run / "config.json").read_text())
    del config["training"]["source"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert call(monkeypatch, "evaluate", str(tmp_path)) == 1
    said = f"error: {tmp_path} does not say which log it was trained on; give it with --events\n"
    assert capsys.readouterr().err == said


def test_a_damaged_source_of_the_log_is_named(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for file in run.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((run / "config.json").read_text())
    config["training"]["source"]["options"]["user_column"] = 3
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert call(monkeypatch, "evaluate", str(tmp_path)) == 1
    said = (
        f"error: {tmp_path / 'config.json'} is damaged (training.source: Expected `str | null`, got `int` - at "
        "`$.options.user_column`); give the log with --events\n"
    )
    assert capsys.readouterr().err == said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "nowhere.csv", "--output=run"], "error: "),
        (["train", "nowhere.csv", "--output=run", "--width=7"], "error: width 7 is not a multiple of heads 2"),
        (["train", "nowhere.csv", "--output=run", "--epochs=0"], "error: epochs is 0; it must be at least 1"),
        (["evaluate", "nowhere"], "error: there is no run folder nowhere; make one with: hytrec train EVENTS"),
    ],
)
def test_a_known_error_is_one_line_and_exit_code_1(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, *arguments) == 1
    out, err = capsys.readouterr()
    assert not out
    assert err.startswith(message)
    assert len(err.splitlines()) == 1


def test_the_defaults_of_the_command_line_are_those_of_the_options() -> None:
    import inspect  # noqa: PLC0415

    from hytrec.config import ModelConfig  # noqa: PLC0415
    from hytrec.training.options import TrainingOptions  # noqa: PLC0415

    defaults = {name: p.default for name, p in inspect.signature(cli.train).parameters.items()}
    stated = vars(TrainingOptions()) | {n: v for n, v in vars(ModelConfig(items=1)).items() if n in defaults}
    assert {name: defaults[name] for name in stated} == stated
