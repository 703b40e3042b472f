"""Each step of the ensembles fails many times: clean errors, a server that lives on, states as they were."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hytrec.contract import Ensemble, Model, Tensor
from hytrec.signature import ENSEMBLES, FUSED, FUSED_APPEND
from hytrec_benchmarks.faults.failing import STEPS, Survival, copy_faulty, fail_and_compare

pytestmark = pytest.mark.e2e

FAILURES = 50


@pytest.fixture(scope="module")
def faulty(serve: Any, built_apart: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    repository = copy_faulty(built_apart, tmp_path_factory.mktemp("faulty") / "repository")
    with serve(repository) as running:
        yield repository, running


@pytest.mark.parametrize("model", STEPS, ids=lambda model: model.name)
def test_a_failing_step_changes_nothing(faulty: Any, model: Model) -> None:
    repository, running = faulty
    survival = fail_and_compare(running.server, running.store, repository, model, failures=FAILURES)
    assert survival == Survival(clean=FAILURES, unchanged=True, alive=True)


def test_a_failing_fused_model_changes_nothing(serve: Any, built: Any, tmp_path: Path) -> None:
    repository = copy_faulty(built.repository, tmp_path / "repository")
    with serve(repository) as running:
        for model in (FUSED, FUSED_APPEND):
            survival = fail_and_compare(running.server, running.store, repository, model, failures=FAILURES)
            assert survival == Survival(clean=FAILURES, unchanged=True, alive=True)


@pytest.mark.parametrize(
    ("ensemble", "output"),
    [(ensemble, output) for ensemble in ENSEMBLES for output in ensemble.outputs],
    ids=lambda part: part.name,
)
def test_a_single_output_asked_for_alone_stores_the_state(served: Any, ensemble: Ensemble, output: Tensor) -> None:
    user = f"alone {ensemble.name} {output.name}"
    asked = {"candidate_keys": [[1000, 1001]]} if ensemble.name == "hytrec_rank" else {}
    answer = served.raw(
        ensemble.name, output.name, user_id=user.encode(), item_keys=[[1000, 1001]], times=[[10, 20]], **asked
    )
    assert set(answer) == {output.name}
    stored = served.user(user)
    assert stored.event_count == 2
    assert stored.events.item_keys.tolist() == [1000, 1001]
