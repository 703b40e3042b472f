"""Every step of the ensembles made to fail: clean errors, a server that lives on, states as they were.

The faults are put in from outside: the served copy of the repository has model files of its own.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hytrec.contract import Model
from hytrec.signature import APPEND, ENSEMBLES, FUSED_ENSEMBLES, FUSED_MODELS, RANK, RECOMMEND
from hytrec_benchmarks.faults.event_ledger import FIRST_TIME_S, UNKNOWN_KEY
from hytrec_clients import ClientError, Events, HytrecClient, ServerFailed
from hytrec_export.options import Execution
from hytrec_export.repository.layout import MODULES, VERSION, execution_of
from hytrec_export.server import EmbeddedServer
from hytrec_export.state.store import StoredUser, UserRead
from hytrec_export.state.users import StateStore

STEPS = tuple(step.model for step in RECOMMEND.steps)
"""All there are, where each is a model of its own."""
FAULTS = ("raise", "reject")
"""An exception out of a model's `execute`, and error responses to all of its requests."""
THREADS = 4
_FAULT_FILE = "fault"

_SHIM = """
from pathlib import Path
import triton_python_backend_utils as pb_utils
from hytrec_export.serving.triton_models.{module} import TritonPythonModel as Sound

FAULT = Path(__file__).with_name("{file}")

class TritonPythonModel(Sound):
    def execute(self, requests):
        try:
            fault = FAULT.read_text()
        except FileNotFoundError:
            return super().execute(requests)
        if fault == "raise":
            raise RuntimeError("injected")
        return [pb_utils.InferenceResponse(output_tensors=[], error=injected()) for _ in requests]

def injected():
    # Of its own for every response: one shared by two takes the server down (Triton 2.51).
    return pb_utils.TritonError("injected", pb_utils.TritonError.INTERNAL)
"""


@dataclass(frozen=True, kw_only=True)
class Survival:
    """What failures of one step came to.

    Args:
        clean: requests that got one error that names the fault.
        unchanged: users whose state is what it was, and who can be appended to afterwards.
        alive: whether the server lives.
    """

    clean: int
    unchanged: bool
    alive: bool


def models_of(repository: Path) -> tuple[Model, ...]:
    """The models that take the steps of a repository's endpoints."""
    return FUSED_MODELS if execution_of(repository) is Execution.FUSED else STEPS


def copy_faulty(repository: Path, target: Path) -> Path:
    """A copy whose models fail on demand, see `failing`."""
    shutil.copytree(repository, target)
    for model in models_of(repository):
        shim = _SHIM.format(module=MODULES[model.name], file=_FAULT_FILE)
        (target / model.name / VERSION / "model.py").write_text(shim)
    return target


@contextmanager
def failing(repository: Path, model: Model, fault: str) -> Iterator[None]:
    """Make a step of a served faulty copy fail."""
    path = repository / model.name / VERSION / _FAULT_FILE
    unfinished = path.with_name("next-fault")
    unfinished.write_text(fault)
    unfinished.replace(path)
    try:
        yield
    finally:
        path.unlink()


def fail_and_compare(
    server: EmbeddedServer, store: StateStore, repository: Path, model: Model, *, failures: int
) -> Survival:
    """Make a step fail in `failures` requests to every ensemble that has it, half of them by each kind of fault.

    Args:
        server: ready, of `repository`, a faulty copy.
        store: the server's, opened beside it.
    """
    users = [f"{model.name} {number}" for number in range(THREADS)]
    endpoints = [
        ensemble.name for ensemble in (*ENSEMBLES, *FUSED_ENSEMBLES) if model in [step.model for step in ensemble.steps]
    ]
    with HytrecClient(server.grpc_url) as client, ThreadPoolExecutor(THREADS) as threads:
        for user in users:
            client.append(user, Events([UNKNOWN_KEY, UNKNOWN_KEY], [FIRST_TIME_S, FIRST_TIME_S + 60]))
        before = _stored(store, users)

        def fails(number: int) -> bool:
            send = _endpoints(client)[endpoints[number % len(endpoints)]]
            return _is_clean(lambda: send(users[number % THREADS], Events.one(UNKNOWN_KEY, FIRST_TIME_S + 120)))

        clean = 0
        shares = [failures // 2, failures - failures // 2]
        for fault, share in zip(FAULTS, shares, strict=True):
            with failing(repository, model, fault):
                clean += sum(threads.map(fails, range(share)))
        alive = server.returncode is None
        unchanged = alive and all(map(_same, before, _stored(store, users)))
        if unchanged:
            receipts = [client.append(user, Events.one(UNKNOWN_KEY, FIRST_TIME_S + 180)) for user in users]
            unchanged = all(receipt.applied and receipt.event_count == 3 for receipt in receipts)
    return Survival(clean=clean, unchanged=unchanged, alive=alive)


def _endpoints(client: HytrecClient) -> Mapping[str, Callable[[str, Events], object]]:
    return {
        APPEND.name: client.append,
        RANK.name: lambda user, events: client.rank(user, [UNKNOWN_KEY], events),
        RECOMMEND.name: client.recommend,
    }


def _is_clean(send: Callable[[], object]) -> bool:
    try:
        send()
    except ServerFailed as error:
        return error.code == "INTERNAL" and "injected" in str(error) and "\n" not in str(error)
    except ClientError:
        return False
    return False


def _stored(store: StateStore, users: list[str]) -> list[StoredUser]:
    return store.read_many([UserRead(user_id=user.encode()) for user in users])


def _same(one: StoredUser, other: StoredUser) -> bool:
    """The revision names every event."""
    facts = [(user.status, user.revision, user.event_count, user.base) for user in (one, other)]
    return one.event_count > 0 and facts[0] == facts[1]
