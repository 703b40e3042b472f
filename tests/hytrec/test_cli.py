from __future__ import annotations

import csv
import inspect
import json
import re
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from hytrec import cli
from hytrec.data.histories import Histories
from hytrec.run_folder import load_run

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
    given = [*COLUMNS, *TINY, "--device=cpu"]
    assert call(monkeypatch, "train", str(events), f"--output={tmp_path / 'run'}", *given) == 0
    out, err = capsys.readouterr()
    assert "\ntraining on cpu, precision 32-true\n" in err
    config = json.loads((tmp_path / "run" / "config.json").read_text())["training"]
    assert (config["device"], config["precision"]) == ("cpu", "32-true")
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
    told = {"run", "log", "device", "precision", "repeats", "split", "target_behaviors"}
    assert set(values) == told | {"metrics", "half_life_events"}
    assert json.loads((tmp_path / "log.json").read_text()) == values["log"]
    assert values["metrics"]["test"]["retriever"].keys() >= {"hr@10", "hr@500", "ndcg@10", "auc"}


def test_a_target_behavior_is_kept_in_the_run_and_asked_for_in_evaluations(
    events: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    given = [*COLUMNS, *TINY, "--target-behavior=buy"]
    assert call(monkeypatch, "train", str(events), f"--output={run}", *given) == 0
    assert "of the events of buy are of an item that the user had before" in capsys.readouterr().err
    assert json.loads((run / "config.json").read_text())["training"]["target_behaviors"] == ["buy"]
    assert tomllib.loads((run / "run.toml").read_text())["target-behavior"] == ["buy"]
    assert call(monkeypatch, "train", f"--resume={run}") == 0
    assert call(monkeypatch, "train", f"--resume={run}", "--target-behavior=view") == 1
    assert "was made with another --target-behavior; resume with the same" in capsys.readouterr().err
    users = []
    for options in ([], ["--target-behavior=buy"], ["--target-behavior=view"]):
        capsys.readouterr()
        assert call(monkeypatch, "evaluate", str(run), "--json", "--no-baselines", *options) == 0
        values = json.loads(capsys.readouterr().out)
        users.append((values["target_behaviors"], values["users"], values["short_users"]))
    assert users[0] == users[1] != users[2]
    assert call(monkeypatch, "evaluate", str(run)) == 0
    assert " users, test part, events of buy, split: last, repeats: " in capsys.readouterr().out


def test_a_finished_training_resumes_to_the_same_run(
    run: Path, events: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (run / "weights.safetensors").read_bytes()
    assert call(monkeypatch, "train", f"--resume={run}") == 0
    assert (run / "weights.safetensors").read_bytes() == before
    assert call(monkeypatch, "train", str(events), f"--output={run}", *COLUMNS, *TINY) == 1
    assert "error: " in capsys.readouterr().err


def test_a_run_writes_the_options_that_reproduce_it(
    run: Path, events: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = tomllib.loads((run / "run.toml").read_text())
    assert options["events"] == [str(events)]
    assert (options["user-column"], options["epochs"], options["repeats"]) == ("who", 2, "remove")
    stated = {name.replace("_", "-") for name in inspect.signature(cli.train).parameters}
    of_a_log = {"behavior-column", "columns", "separator", "header", "encoding", "time-unit"}
    of_a_log |= {"target-behavior", "item-table"}  # None: not given
    assert stated - options.keys() == {"output", "config", "resume", "as-json", "max-minutes", *of_a_log}
    arguments = ["train", f"--config={run / 'run.toml'}", f"--output={tmp_path / 'again'}"]
    assert call(monkeypatch, *arguments) == 0
    assert (tmp_path / "again" / "weights.safetensors").read_bytes() == (run / "weights.safetensors").read_bytes()
    again = tomllib.loads((tmp_path / "again" / "run.toml").read_text())
    assert again == options
    arguments[-1] = f"--output={tmp_path / 'other'}"
    assert call(monkeypatch, *arguments, "--epochs=1", "--seed=4") == 0
    changed = tomllib.loads((tmp_path / "other" / "run.toml").read_text())
    assert changed == options | {"epochs": 1, "seed": 4}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("epochs = ", r"/own\.toml is no TOML file \(.+\); write options as: epochs = 20$"),
        ("epoch = 3", r"/own\.toml: option 'epoch' is unknown; allowed: .*, epochs, events, .*, width, window$"),
        ("resume = 'x'", r"/own\.toml: option 'resume' is unknown; allowed: "),
        ("epochs = 2.5", r"/own\.toml: epochs is 2.5; it must be an integer$"),
        ("epochs = true", r"/own\.toml: epochs is True; it must be an integer$"),
        ("dropout = 'much'", r"/own\.toml: dropout is 'much'; it must be a number$"),
        ("header = 1", r"/own\.toml: header is 1; it must be true or false$"),
        ("device = 1.5", r"/own\.toml: device is 1.5; it must be a text$"),
        ("events = [1]", r"""/own\.toml: events is \[1\]; give a text, or a list of texts as \["a", "b"\]$"""),
    ],
)
def test_a_wrong_file_of_options_is_told(
    content: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "own.toml"
    file.write_text(content + "\n")
    assert call(monkeypatch, "train", f"--config={file}", f"--output={tmp_path / 'run'}") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(message, line)


def test_the_environment_may_name_the_file_of_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HYTREC_TRAIN_CONFIG", "nowhere.toml")
    assert call(monkeypatch, "train", "events.csv", f"--output={tmp_path / 'run'}") == 1
    assert capsys.readouterr().err.startswith("error: nowhere.toml is not there; give a TOML file")


def test_a_file_of_options_may_number_the_columns_and_name_one_log(
    events: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "own.toml"
    file.write_text(
        f"events = '{events}'\nuser-column = 1\nitem-column = 'what'\ntime-column = 3\nheader = true\n"
        "width = 8\ntadn-layers = 1\nepochs = 1\nmax-minutes = 5\nlearning-rate = 1\nrepeats = 'allow'\n"
    )
    arguments = [f"--config={file}", f"--output={tmp_path / 'run'}", "--learning-rate=0.01"]
    assert call(monkeypatch, "train", *arguments) == 0
    written = tomllib.loads((tmp_path / "run" / "run.toml").read_text())
    assert (written["user-column"], written["max-minutes"], written["learning-rate"]) == ("1", 5, 0.01)
    assert (written["header"], written["repeats"]) == (True, "allow")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config=nowhere.toml"], "error: nowhere.toml is not there; give a TOML file, as the run.toml of a run"),
        (
            ["--resume=nowhere"],
            "error: nowhere/run.toml is missing: no training was begun there; begin one: hytrec train EVENTS --output",
        ),
        (
            ["--config={run}/run.toml", "--resume={run}"],
            "error: --resume is given beside another file of options; give either --config or --resume",
        ),
        (["--resume={run}", "--output=other"], "error: --resume {run} writes to that folder; leave out --output other"),
        (
            ["--resume={run}", "--learning-rate=0.5"],
            "error: {run}/training.pt was made with learning_rate 0.01, not 0.5; resume with the same, or give another",
        ),
        (
            ["--config={run}/run.toml", "--output={run}"],
            "error: {run} holds a training already; resume it with: hytrec train --resume {run}, or give another --out",
        ),
    ],
)
def test_what_cannot_be_resumed_is_told(
    arguments: list[str],
    message: str,
    run: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = {file.name: file.read_bytes() for file in run.iterdir()}
    assert call(monkeypatch, "train", *(argument.format(run=run) for argument in arguments)) == 1
    assert message.format(run=run) in capsys.readouterr().err
    assert {file.name: file.read_bytes() for file in run.iterdir()} == before


@pytest.mark.parametrize("number", [pytest.param(signal.SIGINT, marks=pytest.mark.long), signal.SIGTERM])
def test_a_signal_saves_and_says_how_to_resume(
    number: signal.Signals, events: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    code = "from hytrec.cli import main; main()"
    given = [*COLUMNS, *TINY, "--epochs=10000", "--patience=10000", "--log-steps=1"]
    command = [sys.executable, "-c", code, "train", str(events), f"--output={run}", *given]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("epoch 1:"):
                break
        assert json.loads((run / "log.json").read_text())["users"] > 0  # what was read, from the beginning
        process.send_signal(number)
        last = process.stderr.read().splitlines()[-1]
    assert process.returncode == 128 + number
    assert re.fullmatch(
        rf"error: interrupted after step [\d,]+ \(\d+ epochs are finished\), which is saved; "
        rf"resume with: hytrec train --resume {run}",
        last,
    )
    assert call(monkeypatch, "train", f"--resume={run}", "--max-minutes=0.0001") == 0
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in lines if "loss" in line]
    assert steps == list(range(1, len(steps) + 1))


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
    arguments = [
        "--events",
        str(events),
        *COLUMNS,
        "--part=validation",
        "--no-baselines",
        "--repeats=allow",
        "--split=last",
        "--device=cpu",
    ]
    assert call(monkeypatch, "evaluate", str(run), *arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:2] == ["model", "HR@10"]
    assert lines[-1].endswith("users, validation part, split: last, repeats: allow; 2 could not be evaluated")


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
        (["train", "nowhere.csv", "--output=run", "--device=tpu"], "error: device 'tpu' is unknown; give auto, cpu"),
        (["evaluate", "nowhere", "--device=gpu"], "error: device 'gpu' is unknown; give auto, cpu, cuda, or cuda:N"),
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


def test_a_log_that_is_wrong_is_told_before_torch_loads(tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    log.write_text("user_id,item_id,timestamp\n1,2,soon\n")
    script = "import sys; from hytrec.cli import main\ntry: main()\nexcept SystemExit: print('torch' in sys.modules)"
    command = [sys.executable, "-c", script, "train", str(log), f"--output={tmp_path / 'run'}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr.count("\n")) == ("False\n", 1)
    assert "row 1: column 'timestamp' holds 'soon'" in done.stderr


def test_the_defaults_of_the_command_line_are_those_of_the_options() -> None:
    from hytrec.config import ModelConfig  # noqa: PLC0415
    from hytrec.training.options import TrainingOptions  # noqa: PLC0415

    defaults = {name: p.default for name, p in inspect.signature(cli.train).parameters.items()}
    stated = vars(TrainingOptions()) | {n: v for n, v in vars(ModelConfig(items=1)).items() if n in defaults}
    assert {name: defaults[name] for name in stated} == stated


def test_items_of_a_table_that_nobody_had_can_be_ranked(
    events: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with events.open(newline="") as file:
        keys = sorted({line["what"] for line in csv.DictReader(file)})
    table = tmp_path / "items.csv"
    rows = [f"{key},{'odd' if key[-1] in '13579' else 'even'}" for key in (*keys[1:], "new-1", "new-2")]
    table.write_text("what,kind\n" + "\n".join(rows) + "\n")
    run = tmp_path / "run"
    given = [*COLUMNS, *TINY, f"--item-table={table}"]
    assert call(monkeypatch, "train", str(events), f"--output={run}", *given) == 0
    err = capsys.readouterr().err
    assert f"{table}: {len(rows)} items, 2 of them without an event in the log; 1 items of the log are not in it" in err
    assert "features of items: 2, from kind (category of 2 shared values)" in err
    told = json.loads((run / "log.json").read_text())["item_table"]
    assert (told["rows"], told["without_events"], told["without_row"], told["features"]) == (len(rows), 2, 1, 2)
    found = load_run(run)
    assert found.vocabulary.item_keys.tolist() == [key.encode() for key in (*keys, "new-1", "new-2")]
    table_rows = found.model.item_table.weight
    assert float(table_rows[-3:-1].norm(dim=1).min()) > 0
    assert tomllib.loads((run / "run.toml").read_text())["item-table"] == str(table)
    assert call(monkeypatch, "train", f"--resume={run}") == 0
    assert call(monkeypatch, "evaluate", str(run)) == 0
    assert (
        call(monkeypatch, "train", str(events), f"--output={tmp_path / 'other'}", *given[:-1], "--item-table=no") == 1
    )
    assert "no is not there" in capsys.readouterr().err
