from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from hytrec.data.histories import History
from hytrec_export.errors import RepositoryError
from hytrec_export.loadtest.in_process import InProcessBackend, onnx_chain
from hytrec_export.runtime.model_chain import ModelChain, split_every
from hytrec_export.runtime.top_k import best_items
from hytrec_export.settings import ServingSettings

NOW_S = np.array([[1_100_000_000], [1_200_000_000]])


@pytest.fixture
def chain(built: Path) -> Iterator[ModelChain]:
    with onnx_chain(built, sizes=ServingSettings.load(built).sizes) as chain:
        yield chain


def history(length: int, seed: int) -> History:
    random = np.random.default_rng(seed)
    return History(
        item_rows=random.integers(1, 31, length),
        behavior_rows=random.integers(0, 3, length),
        times=1_000_000_000 + np.cumsum(random.integers(0, 9_000, length)),
    )


def test_users_are_answered_as_after_one_encoding_of_all_they_did(chain: ModelChain) -> None:
    in_process = InProcessBackend(chain)
    histories = [history(23, seed=1), history(9, seed=2)]
    for name, whole in zip("ab", histories, strict=True):
        in_process.bring([name], split_every(whole.before(len(whole) - 2), 4))
    for last in (2, 1):
        events = [split_every(whole.before(len(whole) - last + 1), len(whole) - last)[1] for whole in histories]
        scores = in_process.rank(["a", "b"], events, now_s=NOW_S, candidates=np.array([[1, 2, 31], [4, 5, 6]]))
    users = chain.replay([[whole] for whole in histories])
    expected = chain.rerank(users, NOW_S, np.array([[1, 2, 31], [4, 5, 6]]))
    np.testing.assert_allclose(scores, expected, atol=1e-4)


def test_the_best_are_those_of_the_chain(chain: ModelChain) -> None:
    in_process = InProcessBackend(chain)
    whole = history(12, seed=3)
    in_process.bring(["a"], [whole.before(11)])
    found = in_process.recommend(["a"], [split_every(whole, 11)[1]], now_s=NOW_S[:1], top_k=4)
    users = chain.replay([[whole]])
    rows = chain.retrieve(users, NOW_S[:1], np.zeros((1, 1), np.int64))
    expected, _ = best_items(rows[0], chain.rerank(users, NOW_S[:1], rows)[0], 4)
    assert [rows.tolist() for rows in found] == [expected.tolist()]


def test_users_of_one_past_go_on_alone(chain: ModelChain) -> None:
    in_process = InProcessBackend(chain)
    whole = history(8, seed=4)
    in_process.bring(["a", "b"], [whole.before(7)])
    in_process.append(["a"], [split_every(whole, 7)[1]])
    nothing = [whole.before(0)] * 2
    counts = in_process.append(["a", "b"], nothing).state["event_count"]
    assert counts.tolist() == [[8], [7]]
    in_process.forget(["a", "nobody"])
    with pytest.raises(KeyError):
        in_process.append(["a"], nothing[:1])


def test_a_repository_without_graphs_is_refused(tmp_path: Path, settings: ServingSettings) -> None:
    with (
        pytest.raises(RepositoryError, match=r"model.onnx is missing; build the repository again"),
        onnx_chain(tmp_path, sizes=settings.sizes),
    ):
        pass
