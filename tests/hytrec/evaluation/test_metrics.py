from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hytrec.errors import EvaluationError
from hytrec.evaluation.metrics import RankingMetrics

KS = (1, 3, 10)


def plain(order: list[int], target: int) -> dict[str, float]:
    """The textbook metrics of one list of item rows, best first."""
    rank = order.index(target) + 1
    result = {"users": 1.0}
    for k in KS:
        result[f"hr@{k}"] = float(rank <= k)
        result[f"ndcg@{k}"] = float(1 / np.log2(rank + 1)) if rank <= k else 0.0
    result["auc"] = (len(order) - rank) / (len(order) - 1) if len(order) > 1 else 0.5
    return result


def scored(scores: list[list[float]], targets: list[int], seen: list[list[int]] | None = None) -> dict[str, float]:
    metrics = RankingMetrics(KS)
    metrics.add(np.array(scores), np.array(targets), None if seen is None else np.array(seen))
    return metrics.result()


def test_by_hand() -> None:
    result = scored([[0.1, 0.9, 0.5, 0.4], [0.1, 0.9, 0.5, 0.4]], [3, 2])
    assert result == pytest.approx(
        {
            "hr@1": 0.5,
            "ndcg@1": 0.5,
            "hr@3": 1.0,
            "ndcg@3": (1 + 1 / np.log2(3)) / 2,
            "hr@10": 1.0,
            "ndcg@10": (1 + 1 / np.log2(3)) / 2,
            "auc": (2 / 3 + 1) / 2,
            "users": 2,
        }
    )


@given(st.lists(st.integers(0, 2), min_size=1, max_size=5), st.data())
def test_equal_scores_count_as_the_mean_over_their_orders(scores: list[int], data: st.DataObject) -> None:
    items = len(scores)
    target = data.draw(st.integers(1, items))
    seen = data.draw(st.sets(st.integers(1, items)).map(lambda rows: rows - {target}))
    ranked = [row for row in range(1, items + 1) if row not in seen]
    orders = [o for o in permutations(ranked) if sorted(o, key=lambda row: -scores[row - 1]) == list(o)]
    results = [plain(list(order), target) for order in orders]
    expected = {name: float(np.mean([result[name] for result in results])) for name in results[0]}
    padded = [*sorted(seen), 0, items + 1]
    assert scored([[float(score) for score in scores]], [target], [padded]) == pytest.approx(expected)


def test_a_model_that_says_the_same_of_everything_is_worth_a_random_list() -> None:
    result = scored([[0.0] * 100], [7])
    assert (result["hr@10"], result["auc"]) == pytest.approx((0.1, 0.5))


def test_batches_add_up_to_their_users() -> None:
    random = np.random.default_rng(0)
    scores, targets = random.normal(size=(7, 20)).astype(np.float32), random.integers(1, 21, 7)
    parts, whole = RankingMetrics(KS), RankingMetrics(KS)
    whole.add(scores, targets)
    for users in (slice(0, 1), slice(1, 7), slice(7, 7)):
        parts.add(scores[users], targets[users])
    assert parts.result() == pytest.approx(whole.result())
    assert parts.users == 7


def test_scores_are_left_as_they_were() -> None:
    scores = np.zeros((1, 3))
    RankingMetrics().add(scores, np.array([1]), np.array([[2]]))
    assert scores.tolist() == [[0, 0, 0]]


def test_minus_infinity_is_a_score_like_any_other() -> None:
    result = scored([[-np.inf, 0.0, -np.inf]], [1])
    assert result["auc"] == pytest.approx(0.25)
    assert result["hr@3"] == 1


def test_a_list_has_no_auc_and_an_absent_target_is_a_miss() -> None:
    metrics = RankingMetrics((1, 3))
    metrics.add_lists(np.array([[5, 6, 7], [5, 6, 7], [5, 0, 0]]), np.array([6, 9, 5]))
    assert metrics.result() == pytest.approx(
        {"users": 3, "hr@1": 1 / 3, "ndcg@1": 1 / 3, "hr@3": 2 / 3, "ndcg@3": (1 + 1 / np.log2(3)) / 3}
    )


def test_a_hit_further_down_than_the_longest_k_is_a_miss() -> None:
    metrics = RankingMetrics((2,))
    metrics.add_lists(np.arange(1, 9)[None], np.array([3]))
    assert metrics.result() == {"users": 1, "hr@2": 0.0, "ndcg@2": 0.0}


def test_lists_and_scores_in_the_same_order_agree() -> None:
    scores = np.random.default_rng(1).normal(size=(30, 12))
    targets = np.arange(30) % 12 + 1
    by_lists, by_scores = RankingMetrics(KS), RankingMetrics(KS)
    by_lists.add_lists(np.argsort(-scores, axis=1) + 1, targets)
    by_scores.add(scores, targets)
    assert by_lists.result() == pytest.approx({n: v for n, v in by_scores.result().items() if n != "auc"})


def test_names_of_the_default() -> None:
    metrics = RankingMetrics()
    metrics.add(np.eye(3), np.array([1, 2, 3]))
    assert list(metrics.result()) == ["users", "hr@10", "ndcg@10", "hr@50", "ndcg@50", "hr@500", "ndcg@500", "auc"]


@pytest.mark.parametrize(
    ("scores", "targets", "seen", "message"),
    [
        ([[0, 1], [0, np.nan]], [1, 1], None, r"scores of user 1 of the batch hold NaN; the model has diverged"),
        ([[0, 1]], [3], None, r"target row 3 is outside the catalogue; rows are 1 to 2"),
        ([[0, 1]], [0], None, r"target row 0 is outside the catalogue; rows are 1 to 2"),
        ([[0, 1], [0, 1]], [1, 1], [[2], [1]], r"target of user 1 of the batch is among the seen items; allow repeats"),
        ([[0, 1]], [1, 1], None, r"batch of shape \(1, 2\) does not fit targets of shape \(2,\); they are \(users, it"),
        ([0, 1], [1, 1], None, r"batch of shape \(2,\) does not fit targets of shape \(2,\)"),
    ],
)
def test_what_cannot_be_counted_is_refused(
    scores: list[list[float]], targets: list[int], seen: list[list[int]] | None, message: str
) -> None:
    with pytest.raises(EvaluationError, match=message):
        scored(scores, targets, seen)


@pytest.mark.parametrize("ks", [(), (0, 10)])
def test_list_lengths_are_at_least_one(ks: tuple[int, ...]) -> None:
    with pytest.raises(EvaluationError, match=r"list lengths are \[.*\]; give one or more numbers of at least 1"):
        RankingMetrics(ks)


def test_nobody_has_no_result() -> None:
    with pytest.raises(EvaluationError, match="no user can be evaluated; the log needs users of three events or more"):
        RankingMetrics().result()


def test_users_keep_their_order_and_add_up_to_the_means() -> None:
    random = np.random.default_rng(1)
    scores, targets = random.integers(0, 5, (9, 20)).astype(np.float32), random.integers(1, 21, 9)
    metrics = RankingMetrics(KS)
    for users in (slice(0, 4), slice(4, 9)):
        metrics.add(scores[users], targets[users])
    alone = [scored([scores[user].tolist()], [int(targets[user])]) for user in range(9)]
    for k in KS:
        hits, gains = metrics.of_users(k)
        np.testing.assert_allclose(hits, [own[f"hr@{k}"] for own in alone])
        np.testing.assert_allclose(gains, [own[f"ndcg@{k}"] for own in alone])
    assert [own.size for own in RankingMetrics().of_users(10)] == [0, 0]
