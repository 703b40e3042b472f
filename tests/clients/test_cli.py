import json
import re
import subprocess
import sys
import time
from typing import Any

import grpc
import pytest

from hytrec_clients import cli


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fake: Any) -> Any:
    """Runs the command line against the fake server: exit code, stdout, stderr."""

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["hytrec-client", *words, "--url", fake.url])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        return caught.value.code or 0, *capsys.readouterr()  # type: ignore[return-value]

    return run


def test_append(ask: Any, fake: Any) -> None:
    code, out, err = ask("append", "ada", "--item", "50", "--item", "181", "--time", "100", "--time", "200", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out) == {
        "event_count": 2,
        "applied": True,
        "state_status": "found",
        "model_fingerprint": "0" * 32,
    }
    assert fake.users[b"ada"].events == [(50, 100), (181, 200)]


def test_an_event_without_a_time_happens_now(ask: Any, fake: Any) -> None:
    begun = int(time.time())
    assert ask("append", "ada", "--item", "50", "--behavior", "3")[0] == 0
    assert begun <= fake.users[b"ada"].events[0][1] <= time.time()
    assert fake.calls[0][1]["behavior_keys"].tolist() == [3]


def test_append_in_words(ask: Any) -> None:
    _, out, _ = ask("append", "ada")
    assert out == f"event count: 0\napplied: false\nstate status: found\nmodel fingerprint: {'0' * 32}\n"


def test_rank_prints_a_table_best_first_and_json_in_the_order_given(ask: Any) -> None:
    _, out, _ = ask("rank", "ada", "7", "8", "9")
    assert re.findall(r"(\d+) +│ (\d+) +│ ([\d.]+)", out) == [
        ("1", "9", "2.0000"),
        ("2", "8", "1.0000"),
        ("3", "7", "0.0000"),
    ]
    answer = json.loads(ask("rank", "ada", "7", "8", "9", "--json")[1])
    assert (answer["item_keys"], answer["scores"]) == ([7, 8, 9], [0.0, 1.0, 2.0])


def test_recommend(ask: Any, fake: Any) -> None:
    ask("append", "ada", "--item", "50", "--item", "181", "--item", "[b]")
    fake.keys = "BYTES"
    fake.users.clear()
    ask("append", "ada", "--item", "50", "--item", "181", "--item", "[b]")
    words = [
        "recommend",
        "ada",
        "--top-k",
        "2",
        "--exclude",
        "181",
        "--exclude-recent",
        "--now",
        "5",
        "--eligible",
        "shop",
    ]
    answer = json.loads(ask(*words, "--json")[1])
    assert answer["item_keys"] == ["[b]", "50"]
    assert "[b]" in ask(*words)[1]
    inputs = fake.calls[-1][1]
    assert (inputs["exclude_recent"].tolist(), inputs["now"].tolist()) == ([True], [5])
    assert inputs["eligible"].tolist() == [b"shop"]


def test_forget_and_ready(ask: Any, fake: Any) -> None:
    ask("append", "ada", "--item", "50")
    assert ask("forget", "ada")[1] == "forgotten: true\n"
    assert ask("forget", "ada", "--json")[1] == '{"forgotten": false}\n'
    assert ask("ready") == (0, "ready: true\n", "")
    fake.stop()
    assert ask("ready", "--wait", "0.1") == (1, "ready: false\n", "")


def test_a_call_made_again_by_its_request_id(ask: Any, fake: Any, trouble: Any) -> None:
    fake.always = trouble(grpc.StatusCode.UNAVAILABLE, "Socket closed", applies=True)
    code, out, err = ask("append", "ada", "--item", "50", "--timeout", "0.5")
    assert (code, out) == (1, "")
    found = re.fullmatch(r"error: hytrec_append at .*; retry with request_id ([0-9a-f]{32})\n", err)
    assert found
    fake.always = None
    _, out, _ = ask("append", "ada", "--item", "50", "--request-id", found[1], "--json")
    assert json.loads(out)["applied"] is False
    assert len(fake.users[b"ada"].events) == 1


@pytest.mark.parametrize(
    ("words", "text"),
    [
        *(
            (
                ["append", "ada", "--item", key],
                f"item_keys is {key}; the keys of this server are integers, give plain decimal digits without leading",
            )
            for key in ("tt1", "1_000", "007", "+7", "7.0", " 7", "-0")
        ),
        (["append", "ada", "--time", "5"], "--time and --behavior belong to an event; give --item for each"),
        (["append", "ada", "--item", "5", "--time", "1", "--time", "2"], "times has 2 entries and item_keys 1"),
        (["append", "ada", "--request-id", "xyz"], "request_id is 'xyz'; give 32 hex digits"),
        (["append", "ada", "--request-id", "aa"], "request_id is b'\\xaa'; give 16 bytes"),
        (
            ["append", "ada", "--item", "5", "--expected-event-count", "3"],
            "expected_event_count 3 does not fit: the user has 0 events",
        ),
        (["append", "ada", "--timeout", "0"], "timeout_s is 0.0; it must be over 0 seconds"),
    ],
)
def test_known_errors_are_one_line_and_exit_code_1(ask: Any, words: list[str], text: str) -> None:
    code, out, err = ask(*words)
    assert (code, out) == (1, "")
    assert err.startswith("error: ")
    assert text in err
    assert err.count("\n") == 1


def test_anything_else_keeps_its_traceback(ask: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def break_down(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(cli, "HytrecClient", break_down)
    with pytest.raises(ZeroDivisionError):
        ask("append", "ada")


@pytest.mark.parametrize("command", ["append", "rank", "recommend", "forget", "ready"])
def test_every_command_is_explained(ask: Any, command: str) -> None:
    code, out, _ = ask(command, "--help")
    assert code == 0
    assert "--url" in out
    assert "[default: 127.0.0.1:8001]" in " ".join(out.split())


def test_it_runs_as_a_process() -> None:
    code = "from hytrec_clients.cli import main; main()"
    process = subprocess.run([sys.executable, "-c", code, "--help"], capture_output=True, text=True, check=True)
    assert all(command in process.stdout for command in ("append", "rank", "recommend", "forget", "ready"))
