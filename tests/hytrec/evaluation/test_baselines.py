from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hytrec.data.histories import Histories, History, read_histories
from hytrec.data.proximity import proximity
from hytrec.data.split import Part, evaluation, training
from hytrec.errors import ConfigError, EvaluationError
from hytrec.evaluation import baselines, tuned_baselines
from hytrec.evaluation.baselines import (
    ItemKNN,
    MostPopular,
    ProximityKNN,
    measure,
)
from hytrec.evaluation.tuned_baselines import measure_baselines, tuned_item_knns, tuned_proximity_knn

MOVIELENS = Path(__file__).parents[4] / "shared" / "data" / "ml_100k.parquet"
ITEMS = 6
USERS = st.lists(st.lists(st.integers(1, ITEMS + 1), min_size=1, max_size=6), min_size=1, max_size=8)


def log(*users: list[int]) -> Histories:
    flat = np.array([item for user in users for item in user], dtype=np.int64)
    return Histories(
        user_keys=np.arange(len(users)),
        offsets=np.cumsum([0, *map(len, users)]),
        item_rows=flat,
        behavior_rows=np.zeros_like(flat),
        times=np.arange(flat.size) + 1,
    )


def history(*items: int) -> History:
    return log(list(items)).history(0)


def plain_scores(users: list[list[int]], past: list[int], *, shrinkage: float, half_life: float | None) -> list[float]:
    """The formula of the docstring, pair by pair, without a limit on neighbors."""
    who = {item: {place for place, user in enumerate(users) if item in user} for item in range(1, ITEMS + 1)}
    counts = np.array([sum(user.count(item) for user in users) for item in range(1, ITEMS + 1)])
    scores: list[float] = (counts / (counts.max() + 1) - 1).tolist()
    for target in range(1, ITEMS + 1):
        total = 0.0
        for age, item in enumerate(reversed(past)):
            if item <= ITEMS and who[item] & who[target]:
                similarity = len(who[item] & who[target]) / (np.sqrt(len(who[item]) * len(who[target])) + shrinkage)
                total += similarity * (1 if half_life is None else 0.5 ** (age / half_life))
        if total > 0:
            scores[target - 1] = total
    return scores


def test_the_most_popular_item_has_the_most_training_events() -> None:
    popular = MostPopular(log([1, 2, 2], [2, 4, ITEMS + 1]), items=ITEMS)
    scores = popular.scores([history(1), history(4)])
    assert scores.tolist() == [[1, 3, 0, 1, 0, 0]] * 2


@given(USERS, st.lists(st.integers(1, ITEMS + 1), max_size=6), st.sampled_from([0, 2.5]), st.sampled_from([None, 2]))
def test_item_knn_is_its_formula(
    users: list[list[int]], past: list[int], shrinkage: float, half_life: float | None
) -> None:
    knn = ItemKNN(log(*users), items=ITEMS, neighbors=ITEMS, shrinkage=shrinkage, half_life=half_life)
    expected = plain_scores(users, past, shrinkage=shrinkage, half_life=half_life)
    scores = knn.scores([history(3), history(*past)])
    np.testing.assert_allclose(scores[1], expected, rtol=1e-5, atol=1e-6)


@given(USERS, st.permutations(range(1, ITEMS + 1)), st.integers(1, ITEMS))
def test_the_numbering_of_items_does_not_matter(users: list[list[int]], order: list[int], neighbors: int) -> None:
    renamed = [*order, ITEMS + 1]
    there = ItemKNN(log(*users), items=ITEMS, neighbors=neighbors)
    here = ItemKNN(log(*([renamed[i - 1] for i in u] for u in users)), items=ITEMS, neighbors=neighbors)
    scores = there.scores([history(*user) for user in users])
    moved = here.scores([history(*(renamed[item - 1] for item in user)) for user in users])
    np.testing.assert_allclose(moved[:, np.array(order) - 1], scores, rtol=1e-5)


def test_only_the_nearest_neighbors_count() -> None:
    users = log([1, 2], [1, 2], [1, 3], [4, 3], [4, 3], [4, 3])
    past = [history(3)]
    assert ItemKNN(users, items=ITEMS, neighbors=2).scores(past)[0, 0] < 0  # 1 is near 1 and 2, then 3
    assert ItemKNN(users, items=ITEMS, neighbors=3).scores(past)[0, 0] > 0


def test_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    users = log(*(random.integers(1, 41, 12).tolist() for _ in range(30)))
    past = [users.history(user) for user in range(30)]
    whole = ItemKNN(users, items=40, neighbors=5).scores(past)
    monkeypatch.setattr(baselines, "_BLOCK", 7)
    np.testing.assert_array_equal(ItemKNN(users, items=40, neighbors=5).scores(past), whole)


def test_another_half_life_leaves_the_first_alone() -> None:
    users = log([1, 2], [2, 3], [3, 1], [1, 2, 3])
    knn = ItemKNN(users, items=ITEMS)
    before = knn.scores([history(1, 2)])
    recent = knn.with_half_life(1.0)
    assert (knn.half_life, recent.half_life) == (None, 1.0)
    np.testing.assert_array_equal(knn.scores([history(1, 2)]), before)
    expected = ItemKNN(users, items=ITEMS, half_life=1.0).scores([history(1, 2)])
    np.testing.assert_array_equal(recent.scores([history(1, 2)]), expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"neighbors": 0}, "neighbors is 0; it must be at least 1"),
        ({"shrinkage": -1.0}, r"shrinkage is -1\.0; it must be at least 0"),
        ({"half_life": 0.0}, r"half_life is 0\.0; it must be over 0 events, or None for the whole past alike"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ItemKNN(log([1, 2]), items=ITEMS, **options)  # type: ignore[arg-type]


def chains(users: int) -> Histories:
    """Each item is followed by the next one; the start is random."""
    starts = np.random.default_rng(3).integers(0, 40, users)
    return log(*([(start + step) % 40 + 1 for step in range(8)] for start in starts.tolist()))


def test_tuning_finds_that_recent_items_tell_more() -> None:
    whole = chains(200)
    known, validation = training(whole), evaluation(whole, Part.VALIDATION, items=40)
    plain, recent = tuned_item_knns(known, validation, items=40)
    assert plain.half_life is None
    assert recent.half_life in tuned_baselines.HALF_LIVES
    gains = [measure(knn, validation, ks=(10,))["ndcg@10"] for knn in (plain, recent)]
    assert gains[1] > gains[0]
    for neighbors in tuned_baselines.NEIGHBORS:
        other = ItemKNN(known, items=40, neighbors=neighbors, shrinkage=0.0)
        assert measure(other, validation, ks=(10,))["ndcg@10"] <= gains[0]


def test_all_baselines_are_measured_on_the_test_part() -> None:
    result = measure_baselines(chains(200), items=40, ks=(1, 10))
    assert list(result) == ["most-popular", "item-knn", "item-knn-recent", "proximity-knn"]
    assert list(result["item-knn"]) == ["users", "hr@1", "ndcg@1", "hr@10", "ndcg@10", "auc"]
    assert result["item-knn-recent"]["ndcg@10"] > result["most-popular"]["ndcg@10"]


def test_repeats_are_recommended_where_they_are_allowed() -> None:
    whole = log(*([1, 2, 3, 1, 2, 3] for _ in range(5)), *([4, 5, 6, 4, 5, 6] for _ in range(5)))
    result = measure_baselines(whole, items=ITEMS, allow_repeats=True, ks=(3,))
    assert result["item-knn"]["hr@3"] == 1.0
    with pytest.raises(EvaluationError, match="no user can be evaluated"):
        measure_baselines(whole, items=ITEMS)


def test_proximity_knn_sums_what_is_near_to_the_past_and_falls_back_to_popularity() -> None:
    known = log([1, 2, 3], [1, 2], [4, 5], [4])
    near = proximity(known, items=ITEMS, keep=ITEMS).toarray()
    scores = ProximityKNN(known, items=ITEMS, half_life=2.0).scores([history(2, ITEMS + 1, 1), history()])
    wanted = near[:, 0] + 0.5 * near[:, 1]
    np.testing.assert_allclose(scores[0, :3], wanted[:3], rtol=1e-6)
    popularity = np.array([2, 2, 1, 2, 1, 0]) / 3 - 1
    np.testing.assert_allclose(scores[0, 3:], popularity[3:], rtol=1e-6)
    np.testing.assert_allclose(scores[1], popularity, rtol=1e-6)


def test_proximity_knn_counts_an_items_own_nearest() -> None:
    known = log([3, 1], [1, 2], [1, 2], [4, 2])
    wide, narrow = (ProximityKNN(known, items=ITEMS, neighbors=neighbors).scores([history(1)]) for neighbors in (2, 1))
    assert wide[0, 2] == narrow[0, 2] > 0  # 3 is near to 1 alone
    assert wide[0, 1] == narrow[0, 1] > 0  # 2 is nearer to 1 than to 4
    assert ProximityKNN(known, items=ITEMS, neighbors=1).scores([history(4)])[0, 1] < 0
    assert ProximityKNN(known, items=ITEMS, neighbors=2).scores([history(4)])[0, 1] > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"neighbors": 0}, "neighbors is 0; it must be at least 1"),
        ({"half_life": 0.0}, r"half_life is 0\.0; it must be over 0 events"),
    ],
)
def test_proximity_options_out_of_range_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ProximityKNN(log([1, 2]), items=ITEMS, **options)  # type: ignore[arg-type]


def test_proximity_knn_is_tuned_on_the_validation_part() -> None:
    whole = chains(200)
    known, validation = training(whole), evaluation(whole, Part.VALIDATION, items=40)
    tuned = tuned_proximity_knn(known, validation, items=40)
    best = measure(tuned, validation, ks=(10,))["ndcg@10"]
    for neighbors, half_life in product(tuned_baselines.PROXIMITY_NEIGHBORS, tuned_baselines.PROXIMITY_HALF_LIVES):
        other = ProximityKNN(known, items=40, neighbors=neighbors, half_life=half_life)
        assert measure(other, validation, ks=(10,))["ndcg@10"] <= best


@pytest.mark.skipif(not MOVIELENS.is_file(), reason="no MovieLens-100K beside the checkout (../shared/data)")
def test_movielens_gives_the_figures_others_get() -> None:
    histories, vocabulary = read_histories(MOVIELENS)
    items = vocabulary.item_keys.size
    test = evaluation(histories, Part.TEST, items=items)
    known = training(histories)
    popular = measure(MostPopular(known, items=items), test)
    knn = measure(ItemKNN(known, items=items, neighbors=1000, shrinkage=0.0), test)
    recent = measure(ItemKNN(known, items=items, neighbors=200, shrinkage=10.0, half_life=2.0), test)
    assert popular["ndcg@10"] == pytest.approx(0.0441, abs=5e-4)
    assert knn["ndcg@10"] == pytest.approx(0.0567, abs=5e-4)
    assert recent["ndcg@10"] == pytest.approx(0.1060, abs=5e-4)
    near = measure(ProximityKNN(known, items=items), test)
    assert near["ndcg@10"] == pytest.approx(0.1216, abs=5e-4)
