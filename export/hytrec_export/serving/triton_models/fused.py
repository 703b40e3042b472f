"""Fused models in Triton's python backend; the work is done by `hytrec_export.serving.fused_pipeline`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial

from hytrec.contract import Model
from hytrec.signature import FUSED, FUSED_APPEND, GRAPHS, STATE_LOAD, STATE_SAVE, TIMES
from hytrec_export.catalog.watch import CatalogWatch
from hytrec_export.repository.layout import graph_files
from hytrec_export.runtime.padding import FINE_STEPS_PER_OCTAVE
from hytrec_export.serving.append_step import APPEND_STEP, AppendStep
from hytrec_export.serving.counters import LOAD_COUNTERS, SAVE_COUNTERS
from hytrec_export.serving.fused_pipeline import FusedPipeline, PipelineRequest, endpoint_of
from hytrec_export.serving.lengths import Lengths
from hytrec_export.serving.load_step import LoadStep
from hytrec_export.serving.metrics_file import MetricsFile
from hytrec_export.serving.peer_activity import PeerActivity
from hytrec_export.serving.replay_locks import ReplayLocks
from hytrec_export.serving.request_metrics import RequestMetrics
from hytrec_export.serving.save_step import SaveStep
from hytrec_export.serving.state_refresh import StateRefresh
from hytrec_export.serving.triton_models.intake import Admitted, Intake
from hytrec_export.serving.triton_models.long_request_queue import LongRequestQueue, is_long
from hytrec_export.serving.triton_models.metrics import TritonCounters
from hytrec_export.serving.triton_models.startup import (
    open_graph,
    repository_of,
    settings_of,
    store_of,
    view_of,
    vocabulary_of,
)
from hytrec_export.serving.triton_models.step_model import Args, Execute, StepModel
from hytrec_export.serving.tuning import LATEST_SNAPSHOT, LONG_QUEUE_SIZE, RECENT_USERS
from hytrec_export.settings import FILE_NAME, server_folder


class TritonPythonModel(StepModel):
    """`hytrec_fused`: all steps of all endpoints."""

    def open(self, args: Args, opened: ExitStack) -> Execute:
        """Open vocabulary, store and graphs."""
        # a repository that was built without it has its appends here
        appends = not (repository_of(args) / FUSED_APPEND.name).is_dir()
        return open_fused(args, opened, model=FUSED, graphs=GRAPHS, recent=RECENT_USERS, appends=appends)


def open_fused(
    args: Args,
    opened: ExitStack,
    *,
    model: Model,
    graphs: Sequence[Model],
    recent: int = 0,
    appends: bool = False,
    long_queue: int = LONG_QUEUE_SIZE,
) -> Execute:
    """One `execute` per server batch; long requests wait in a queue of their own.

    Args:
        graphs: those of the endpoints that requests come for.
        recent: users whose last state this process remembers.
        long_queue: maximum long requests that run or wait.
        appends: whether short appends come: these are tried in one transaction first, and wait for no snapshot.
    """
    settings, vocabulary = settings_of(args), vocabulary_of(args)
    files = graph_files(repository_of(args))
    peers = PeerActivity(repository_of(args) / FILE_NAME)
    opened.callback(peers.close)
    watch = CatalogWatch(repository_of(args), settings, vocabulary, models=[graph.name for graph in graphs])
    runs = {
        graph.name: open_graph(files[graph.name], graph, peers_idle=peers.peers_idle, live=watch.live(graph.name)).run
        for graph in graphs
    }
    counters = TritonCounters(model=STATE_LOAD, counters=LOAD_COUNTERS)
    store = store_of(settings, opened, recent=recent, counters=counters)
    store.catalog_mark = watch.mark
    store.snapshot_limit = LATEST_SNAPSHOT * store.snapshot_every
    view = view_of(settings, watch, max_hidden=None)
    load = LoadStep(
        settings=settings,
        vocabulary=vocabulary,
        store=store,
        counters=counters,
        lengths=Lengths.of(settings, any_events=True, steps_per_octave=FINE_STEPS_PER_OCTAVE),
        packed=False,
        view=view,
    )
    save = SaveStep(
        settings=settings,
        vocabulary=vocabulary,
        store=store,
        counters=TritonCounters(model=STATE_SAVE, counters=SAVE_COUNTERS),
        view=view,
    )
    metrics = RequestMetrics()
    opened.callback(MetricsFile(metrics).close)
    short_steps, long_steps = (
        {
            name: metrics.timing(name, step)
            for name, step in (
                runs | {STATE_LOAD.name: partial(load.run, long=long), STATE_SAVE.name: save.run}
            ).items()
        }
        for long in (False, True)
    )
    replays = ReplayLocks(server_folder())
    append = None
    if appends:
        refresh = StateRefresh(replays.waiting(FusedPipeline(long_steps, working=peers.busy).run))
        opened.callback(refresh.close)
        step = AppendStep(settings=settings, store=store, counters=counters, view=view, refresh=refresh)
        append = metrics.timing(APPEND_STEP, step.run)
    queue = LongRequestQueue(
        run=metrics.counting(FusedPipeline(short_steps, append=append, working=peers.busy).run),
        run_long=replays.waiting(metrics.counting(FusedPipeline(long_steps, working=peers.busy).run)),
        read=_pipeline_request,
        model=model,
        is_long=lambda admitted: is_long(admitted.triton, times=TIMES),
        size=long_queue,
    )
    opened.callback(queue.finish)
    intake = Intake(queue.execute, model=model, counters=counters)
    opened.callback(intake.close)
    return intake.execute


def _pipeline_request(admitted: Admitted) -> PipelineRequest:
    endpoint = endpoint_of(frozenset(admitted.requested_output_names()))
    return PipelineRequest(endpoint=endpoint, inputs=admitted.tensors())
