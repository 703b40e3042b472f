from hytrec.evaluation.tables import half_life_lines, metric_lines


def test_metrics_stand_in_columns_and_what_is_missing_is_a_dash() -> None:
    head, retriever, reranker = metric_lines(
        {
            "retriever": {"hr@10": 0.5, "ndcg@10": 0.25, "auc": 0.9, "users": 1234},
            "retrieve-then-rerank": {"hr@10": 0.75},
        }
    )
    assert head.split() == ["model", "HR@10", "HR@50", "HR@500", "NDCG@10", "NDCG@500", "AUC", "USERS"]
    assert retriever.split() == ["retriever", "0.5000", "-", "-", "0.2500", "-", "0.9000", "1,234"]
    assert reranker.split() == ["retrieve-then-rerank", "0.7500", "-", "-", "-", "-", "-", "-"]
    assert len(head) == len(retriever) == len(reranker)


def test_half_lives_stand_in_a_line_for_every_layer() -> None:
    title, first, second = half_life_lines([[12.4, 3_456.0], [float("inf"), 1.0]])
    assert title.startswith("memory half-life in events")
    assert first.split() == ["12", "3,456"]
    assert second.split() == ["never", "1"]
