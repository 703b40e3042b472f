from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hytrec.data.histories import Histories
from hytrec.data.split import Evaluation, Part, evaluation, training
from hytrec_benchmarks.baselines import __main__ as command
from hytrec_benchmarks.baselines.factorization import AlsSettings, BprSettings, Factors, als_grid, bpr_grid
from hytrec_benchmarks.baselines.factorization import fit_als as als
from hytrec_benchmarks.baselines.factorization import fit_bpr as bpr
from hytrec_benchmarks.baselines.sasrec import SasrecModel, SasrecSettings, fit_sasrec, sasrec_grid
from hytrec_benchmarks.baselines.scoring import rank, validation_gain

ITEMS = 24
SASREC = SasrecSettings(width=16, dropout=0.0, length=8, learning_rate=0.01, epochs=8)


@pytest.fixture(scope="module")
def log() -> Histories:
    """Two groups of users who keep to their half of the items, in the items' order."""
    random = np.random.default_rng(0)
    lengths = random.integers(5, 11, 80)
    half = ITEMS // 2
    rows = [
        (random.integers(half) + np.arange(length)) % half + 1 + half * (user % 2)
        for user, length in enumerate(lengths)
    ]
    return Histories(
        user_keys=np.arange(lengths.size),
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        item_rows=np.concatenate(rows),
        behavior_rows=np.zeros(lengths.sum(), np.int64),
        times=np.concatenate([10**9 + np.arange(length) for length in lengths]),
    )


@pytest.fixture(scope="module")
def validation(log: Histories) -> Evaluation:
    return evaluation(log, Part.VALIDATION, items=ITEMS)


def test_sasrec_learns_an_order(log: Histories, validation: Evaluation) -> None:
    model, gain = fit_sasrec(training(log), validation, SASREC, items=ITEMS, seed=0)
    assert gain > 0.8
    assert gain == pytest.approx(validation_gain(model, validation))
    assert not model.training


def test_sasrec_sees_no_later_event_and_no_padding() -> None:
    torch.manual_seed(0)
    model = SasrecModel(SASREC, items=ITEMS).eval()
    rows = torch.tensor([[3, 5, 7, 2]])
    with torch.inference_mode():
        plain = model(rows)
        changed = model(torch.tensor([[3, 5, 7, 9]]))
        padded = model(torch.tensor([[0, 0, 3, 5, 7, 2]]))
    torch.testing.assert_close(changed[:, :3], plain[:, :3])
    assert not torch.allclose(changed[:, 3], plain[:, 3])
    torch.testing.assert_close(padded[:, 2:], plain, atol=1e-6, rtol=1e-5)


def test_sasrec_reads_the_last_events(log: Histories, validation: Evaluation) -> None:
    model = SasrecModel(SASREC, items=ITEMS).eval()
    long = int(np.argmax(validation.events - log.offsets[validation.users]))
    assert len(validation.history(long)) >= SASREC.length
    scores = model.scores(validation, np.array([long, 0]))
    with torch.inference_mode():
        last = model(torch.from_numpy(validation.history(long).item_rows[-SASREC.length :]).unsqueeze(0))[0, -1]
        wanted = model.items.weight[1:-1] @ last
    assert scores.shape == (2, ITEMS)
    np.testing.assert_allclose(scores[0], wanted.numpy(), atol=1e-5)


def test_the_grids_are_those_of_the_report() -> None:
    assert {(own.width, own.dropout) for own in sasrec_grid(length=50)} == {
        (64, 0.2),
        (64, 0.5),
        (128, 0.2),
        (128, 0.5),
    }
    assert len(set(als_grid())) == len(als_grid()) > 10
    assert len(set(bpr_grid())) == len(bpr_grid()) > 10


class OwnFactors:
    """Stands for a model of implicit: every item its own direction."""

    item_factors = np.eye(ITEMS, dtype=np.float32)
    user_factors = np.arange(80, dtype=np.float32)[:, None] * np.ones((80, ITEMS), np.float32)

    def recalculate_user(self, users: Any, matrix: Any) -> Any:
        assert matrix.shape == (len(users), ITEMS)
        return matrix.toarray()


def test_folded_in_factors_are_of_what_the_user_has_had(validation: Evaluation) -> None:
    (scores,) = Factors(OwnFactors(), fold_in=True).scores(validation, np.array([3]))
    assert set(np.flatnonzero(scores) + 1) == set(validation.history(3).item_rows.tolist())


def test_other_factors_are_those_of_the_training(validation: Evaluation) -> None:
    (scores,) = Factors(OwnFactors(), fold_in=False).scores(validation, np.array([3]))
    assert set(scores.tolist()) == {float(validation.users[3])}


def test_factorization_finds_the_groups(log: Histories, validation: Evaluation) -> None:
    pytest.importorskip("implicit", reason="the extra bench is not installed")
    for trained in (
        als(training(log), AlsSettings(factors=4, regularization=0.1, alpha=1.0), items=ITEMS, seed=0),
        bpr(
            training(log),
            BprSettings(factors=8, learning_rate=0.1, regularization=0.01, iterations=100),
            items=ITEMS,
            seed=0,
        ),
    ):
        scores = trained.scores(validation, np.arange(len(validation)))
        own_half = (np.arange(ITEMS) >= ITEMS // 2) == (validation.users % 2).astype(bool)[:, None]
        means = [np.nanmean(np.where(mask, scores, np.nan)) for mask in (own_half, ~own_half)]
        assert means[0] > means[1] + 0.1
        assert rank(trained, validation).users == len(validation)


def test_the_command_keeps_what_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: Histories) -> None:
    asked: list[str] = []

    class Vocabulary:
        item_keys = range(ITEMS)

    def reading(path: Path) -> tuple[Histories, Vocabulary]:
        asked.append(path.name)
        return log, Vocabulary()

    monkeypatch.setattr(command, "read_histories", reading)
    other = replace(SASREC, width=8, dropout=0.5)
    monkeypatch.setattr(command, "sasrec_grid", lambda **_: [SASREC, other])
    monkeypatch.setattr("torch.set_num_threads", lambda _: None)
    arguments = [f"--output={tmp_path / 'baselines.json'}", f"--runs={tmp_path / 'runs'}", f"--data={tmp_path}"]
    arguments += ["--only", "sasrec", "--seeds", "2"]
    assert command.main(arguments) == 0
    found = json.loads((tmp_path / "baselines.json").read_text())
    assert found.keys() == {"MovieLens-100K", "Amazon Beauty"}
    sasrec = found["Amazon Beauty"]["sasrec"]
    assert sasrec["settings"]["width"] == 16  # it learned more than the other one
    assert [tried["settings"]["width"] for tried in sasrec["tried"]] == [16, 8]
    assert len(sasrec["test"]) == 2
    assert sasrec["test"][0]["users"] == 80
    trained = {*(tmp_path / "runs").glob("*/*.json")}
    assert len(trained) == 2 * 3
    min(trained).unlink()
    fits: list[object] = []

    def counted(*given: Any, **more: Any) -> Any:
        fits.append(given)
        return fit_sasrec(*given, **more)

    monkeypatch.setattr(command, "fit_sasrec", counted)
    assert command.main(arguments) == 0
    assert len(fits) == 1
    assert {*(tmp_path / "runs").glob("*/*.json")} == trained
    asked.clear()
    assert command.main([*arguments, "--logs", "beauty"]) == 0
    assert len(asked) == 1
    again = json.loads((tmp_path / "baselines.json").read_text())
    assert again["MovieLens-100K"]["sasrec"]["test"] == found["MovieLens-100K"]["sasrec"]["test"]
