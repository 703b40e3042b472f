"""Peers answer what HyTRec answers, on the same traffic; tiny models."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from hytrec.config import ModelConfig
from hytrec.contract import StateStatus
from hytrec.data.histories import History
from hytrec.data.vocabulary import Vocabulary
from hytrec.modeling.delta_rule import reference
from hytrec.modeling.model import HyTRec, build_model
from hytrec.run_folder import load_run, save_run
from hytrec_benchmarks.fixtures.reference_models import torch_chain
from hytrec_benchmarks.peers import build
from hytrec_benchmarks.peers.encoders import scorer_of
from hytrec_benchmarks.peers.queries import Peer, Query
from hytrec_benchmarks.peers.repository import PeerKind, write_peer
from hytrec_benchmarks.peers.sasrec import new_sasrec
from hytrec_clients import Events, HytrecClient, InvalidRequest
from hytrec_export.errors import BuildError, InputError
from hytrec_export.runtime.model_chain import split_every
from hytrec_export.server import EmbeddedServer, ServerOptions
from hytrec_export.settings import Limits, ServingSettings

FIRST_KEY = 100
NOW_S = 1_000_300_000


@pytest.fixture(scope="module")
def config() -> ModelConfig:
    # The fused attention of the softmax peer wants heads of a multiple of 8.
    return ModelConfig(items=30, behaviors=2, width=16, heads=2, tadn_layers=2, softmax_layers=1, window=4, experts=2)


@pytest.fixture
def model(config: ModelConfig) -> HyTRec:
    torch.manual_seed(0)
    return build_model(config).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory, config: ModelConfig, history: History) -> Path:
    vocabulary = Vocabulary(np.arange(FIRST_KEY, FIRST_KEY + config.items), [b"view", b"buy"])
    torch.manual_seed(0)
    model = build_model(config).eval().requires_grad_(False)
    torch.nn.init.normal_(model.reranker.score.weight)  # it starts at zero
    folder = tmp_path_factory.mktemp("run") / "run"
    save_run(folder, config=config, training={}, model=model, vocabulary=vocabulary, samples=[history.before(9)])
    return folder


@pytest.fixture(scope="module")
def peers(tmp_path_factory: pytest.TempPathFactory, run_folder: Path) -> dict[PeerKind, Path]:
    """Repositories of the run."""
    folder = tmp_path_factory.mktemp("peers")
    for kind in (PeerKind.EAGER, PeerKind.SOFTMAX):
        write_peer(kind, run_folder, folder / kind)
    return {kind: folder / kind for kind in (PeerKind.EAGER, PeerKind.SOFTMAX)}


def query(history: History, events: int, candidates: int = 5) -> Query:
    rows = np.arange(1, candidates + 1) + events
    return Query(history=history.before(events), candidates=rows, now_s=NOW_S)


def test_histories_are_encoded_whole_whatever_else_is_asked(
    model: HyTRec, config: ModelConfig, history: History
) -> None:
    queries = [query(history, 20), query(history, 1, candidates=3), query(history, 19), query(history, 0)]
    with torch_chain(model, sizes=config.sizes()) as chain:
        scorer = scorer_of(chain, sizes=config.sizes())
        together = scorer(queries)
    assert [scores.size for scores in together] == [5, 3, 5, 5]
    with torch_chain(model, sizes=config.sizes(), delta_rule=reference) as chain:
        for asked, scores in zip(queries, together, strict=True):
            users = chain.replay([split_every(asked.history, 3)])
            expected = chain.rerank(users, np.array([[NOW_S]]), asked.candidates[None])[0]
            np.testing.assert_allclose(scores, expected, atol=1e-5)


def test_padding_and_the_future_change_nothing_in_softmax(config: ModelConfig, history: History) -> None:
    module = new_sasrec(config)
    rows, candidates = torch.from_numpy(history.item_rows)[None], torch.arange(1, 9)[None]
    with torch.inference_mode():
        (alone,) = module(rows[:, :10], torch.tensor([[10]]), candidates)
        (before_others,) = module(rows, torch.tensor([[10]]), candidates)
        (longer,) = module(rows, torch.tensor([[11]]), candidates)
    torch.testing.assert_close(alone, before_others, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(alone, longer, atol=1e-3)


def count(queries: Sequence[Query]) -> list[NDArray[np.float32]]:
    """Scores by how many events a history has."""
    return [np.full(asked.candidates.size, len(asked.history), np.float32) for asked in queries]


def test_a_peer_keeps_histories_in_order_and_refuses_bad_calls(config: ModelConfig) -> None:
    vocabulary = Vocabulary(np.arange(FIRST_KEY, FIRST_KEY + config.items), [b"view", b"buy"])
    settings = ServingSettings.of("f" * 32, config, vocabulary, Limits(max_candidates=4))
    peer = Peer(settings=settings, vocabulary=vocabulary, scorer=count)
    ada = {"user_id": np.array([[b"ada"]], object)}
    two = {"item_keys": np.array([[FIRST_KEY, 7]]), "times": np.array([[5, 6]])}
    asked = {"candidate_keys": np.array([[FIRST_KEY, FIRST_KEY + 1]])}
    appended, ranked, refused = peer.answer([ada | two, ada | two | asked, ada | {"candidate_keys": np.ones((1, 5))}])
    assert isinstance(appended, dict)
    assert isinstance(ranked, dict)
    assert "scores" not in appended
    assert (appended["event_count"].item(), appended["state_status"].item()) == (2, StateStatus.NEW)
    assert (ranked["event_count"].item(), ranked["state_status"].item()) == (4, StateStatus.FOUND)
    assert ranked["scores"].tolist() == [[4.0, 4.0]]
    assert isinstance(refused, InputError)
    assert "candidate_keys holds 5 keys; 1 to 4 are allowed" in str(refused)


@pytest.mark.e2e
@pytest.mark.parametrize("kind", [PeerKind.EAGER, PeerKind.SOFTMAX])
def test_a_served_peer_answers_our_client(
    peers: dict[PeerKind, Path], run_folder: Path, config: ModelConfig, history: History, kind: PeerKind
) -> None:
    keys = FIRST_KEY - 1 + history.item_rows
    candidates = np.arange(FIRST_KEY, FIRST_KEY + 20)
    options = ServerOptions(repository=peers[kind], grpc_port=0, http_port=0, metrics_port=0)
    with EmbeddedServer(options) as server, HytrecClient(server.grpc_url, timeout_s=60) as client:
        assert client.backfill("ada", Events(keys[:-1], history.times[:-1]), chunk=16).event_count == 39
        ranking = client.rank("ada", candidates, Events(keys[-1:], history.times[-1:]), now=NOW_S)
        assert ranking.receipt.event_count == 40
        with pytest.raises(InvalidRequest, match="candidate_keys is empty"):
            client.rank("ada", [])
    run = load_run(run_folder)
    rows = run.vocabulary.item_rows(candidates)
    own = History(item_rows=history.item_rows, behavior_rows=history.item_rows * 0, times=history.times)
    if kind is PeerKind.EAGER:
        with torch_chain(run.model, sizes=config.sizes()) as chain:
            expected = chain.rerank(chain.replay([[own]]), np.array([[NOW_S]]), rows[None])[0]
    else:
        module = new_sasrec(config)
        with torch.inference_mode():
            expected = module(
                torch.from_numpy(own.item_rows)[None], torch.tensor([[40]]), torch.from_numpy(rows)[None]
            )[0][0].numpy()
    np.testing.assert_allclose(ranking.scores, expected, atol=1e-4)


def test_a_repository_is_not_overwritten(tmp_path: Path, run_folder: Path) -> None:
    with pytest.raises(BuildError, match=r"run exists; give a folder that does not, or delete it"):
        write_peer(PeerKind.EAGER, run_folder, run_folder)


def test_what_answers_is_the_runs_model_but_for_softmax(run_folder: Path, peers: dict[PeerKind, Path]) -> None:
    fingerprint = load_run(run_folder).fingerprint
    assert ServingSettings.load(peers[PeerKind.EAGER]).fingerprint == fingerprint
    other = ServingSettings.load(peers[PeerKind.SOFTMAX]).fingerprint
    assert len(other) == 32
    assert other != fingerprint


def test_the_script_builds_a_repository_or_says_why_not(
    tmp_path: Path, run_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [sys.executable, build.__file__, "eager", str(run_folder), str(tmp_path / "peer")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert sorted(path.parent.name for path in (tmp_path / "peer").glob("*/config.pbtxt")) == [
        "hytrec_append",
        "hytrec_rank",
    ]
    monkeypatch.setattr(sys, "argv", ["build", "eager", str(tmp_path / "nowhere"), str(tmp_path / "other")])
    assert build.main() == 1
    assert capsys.readouterr().err.startswith(f"there is no run folder {tmp_path}/nowhere")
    assert not (tmp_path / "other").exists()
