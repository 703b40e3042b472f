"""One more state tensor costs the table, its declaration and the forward that makes it; everything else follows."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).parents[1]
EDITS = {
    "hytrec/signature.py": {
        "STATE = (MEMORY,": """\
LAST_BEHAVIOR = _numbers("last_behavior", Content.BEHAVIOR_ROW, _ONE, "behavior row of the last event")
STATE = (LAST_BEHAVIOR, MEMORY,""",
        "USER_FEATURES = (LAST_MEMORY,": "USER_FEATURES = (LAST_MEMORY, LAST_BEHAVIOR,",
    },
    "hytrec/modeling/states.py": {
        "    memory: Tensor\n    window_items": "    last_behavior: Tensor\n    memory: Tensor\n    window_items",
        "    last_memory: Tensor\n": "    last_memory: Tensor\n    last_behavior: Tensor\n",
    },
    "hytrec/modeling/model.py": {
        "            event_count=state.event_count + count,": """\
            event_count=state.event_count + count,
            last_behavior=torch.where(some, last_of(behavior_rows.unsqueeze(-1), count), state.last_behavior),""",
        "            now_s=next_times.gather(": """\
            last_behavior=behavior_rows.gather(1, positions).reshape(-1, 1),
            now_s=next_times.gather(""",
        "        user = self.window_sum(rows, ages, filled)": """\
        user = self.window_sum(rows, ages, filled) + self.behavior_table(features.last_behavior).squeeze(1)""",
    },
}
USE = """
import sys
from pathlib import Path

import numpy as np
import torch

from hytrec.config import Branches, ModelConfig
from hytrec.data.histories import Histories, History
from hytrec.data.vocabulary import Vocabulary
from hytrec.modeling.model import build_model
from hytrec.run_folder import save_run
from hytrec.training.options import TrainingOptions
from hytrec.training.trainer import Trainer
from hytrec_export.options import BuildOptions, Target
from hytrec_export.pipeline import build
from hytrec_export.settings import Limits, ServingSettings
from hytrec_export.serving.store_model import store_model
from hytrec_export.state.events import StoredEvents
from hytrec_export.state.opening import open_store
from hytrec_export.state.options import StoreOptions
from hytrec_export.state.url import StoreUrl
from hytrec_export.state.store import NewSnapshot, UserRead, UserWrite
from hytrec_export.verification.findings import all_ok
from hytrec_export.verification.parity import golden
from hytrec_export.verification.repository import verify

folder = Path(sys.argv[1])
random = np.random.default_rng(0)
rows, behaviors = random.integers(1, 10, 12), random.integers(1, 3, 12)
times = 10**9 + np.arange(12)
config = ModelConfig(
    items=9, behaviors=2, width=18, heads=3, tadn_layers=1, softmax_layers=1, window=5, experts=1, dropout=0.0,
    branches=Branches.NONE,  # and so an ablation of odd sizes passes the gate
)
model = build_model(config)
log = Histories(
    user_keys=np.array([b"u"]), offsets=np.array([0, 12]), item_rows=rows, behavior_rows=behaviors, times=times
)
list(Trainer(model, log, TrainingOptions()).epoch(0))
history = History(item_rows=rows, behavior_rows=behaviors, times=times)
vocabulary = Vocabulary([b"%d" % row for row in range(9)], [b"view", b"buy"])
save_run(folder / "run", config=config, training={}, model=model, vocabulary=vocabulary, samples=[history])
limits = Limits(max_events=20, max_candidates=9, max_excluded=4, max_batch=2)
repository = folder / "repository"
build(BuildOptions(run=folder / "run", output=repository, limits=limits, target=Target.ONNXRUNTIME))
assert all_ok(verify(repository))
config_pbtxt = (repository / "hytrec_encoder" / "config.pbtxt").read_text()
assert '"last_behavior"' in config_pbtxt and '"next_last_behavior"' in config_pbtxt
state = golden.load(repository / golden.FILE_NAME)[0].state
assert state["last_behavior"].tolist() == [behaviors[-1]], state
settings = ServingSettings.load(repository)
store = open_store(StoreOptions(url=StoreUrl.parse("memory:")), store_model(settings))
keys = np.empty(12, object)
keys[:] = [b"%d" % (row - 1) for row in rows]
events = StoredEvents.given(keys, np.empty(0, object), times, store.types)
write = UserWrite(user_id=b"u", request_id=bytes(16), revision=bytes(16), event_count=0, events=events)
(result,) = store.write_many([write])
store.write_snapshots([NewSnapshot(user_id=b"u", revision=result.revision, event_count=12, state=state)])
assert store.read_many([UserRead(user_id=b"u")])[0].state["last_behavior"].tolist() == [behaviors[-1]]
"""


def test_a_new_state_tensor_is_trained_exported_verified_and_stored(tmp_path: Path) -> None:
    for package in ("hytrec", "export/hytrec_export"):
        shutil.copytree(PROJECT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name, edits in EDITS.items():
        file = tmp_path / name
        text = file.read_text()
        for old, new in edits.items():
            assert text.count(old) == 1, (name, old)
            text = text.replace(old, new)
        file.write_text(text)
    paths = os.pathsep.join([str(tmp_path), str(tmp_path / "export")])
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", USE, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
