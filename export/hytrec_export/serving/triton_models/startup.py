"""Start of a python model: the build's settings, its vocabulary, the store, the graph."""

from __future__ import annotations

import asyncio  # noqa: F401 - else the stub imports it on the model's first request, which then takes 60 ms longer
import gc
import json
import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial, wraps
from pathlib import Path
from typing import Any, TypeVar

import triton_python_backend_utils as pb_utils

from hytrec.contract import Model
from hytrec.data.vocabulary import Vocabulary
from hytrec.errors import HytrecError
from hytrec.vector_signature import ITEM_VECTORS
from hytrec_export.catalog.watch import CatalogWatch
from hytrec_export.errors import RepositoryError
from hytrec_export.item_lists import ItemLists
from hytrec_export.parent_death import die_with_parent, in_stub
from hytrec_export.repository.layout import GRAPH_FILE
from hytrec_export.runtime.chunked_encoder import open_runner
from hytrec_export.runtime.item_vectors import ITEM_TABLE_FILE, ItemTable
from hytrec_export.runtime.runners import Live
from hytrec_export.serving.batched_graph import BatchedGraph
from hytrec_export.serving.catalog_view import LiveView
from hytrec_export.serving.counters import NOTICE_COUNTERS, Counters
from hytrec_export.serving.eligibility import Eligibility
from hytrec_export.serving.store_model import store_model
from hytrec_export.serving.tuning import MAX_ELEMENTS, RUN_OVERHEAD
from hytrec_export.settings import VOCABULARY_FILE, ServingSettings
from hytrec_export.state.opening import open_store
from hytrec_export.state.options import StoreOptions
from hytrec_export.state.sweep import Notice
from hytrec_export.state.users import StateStore

_Returned = TypeVar("_Returned")


def starting(initialize: Callable[[Any, dict[str, str]], _Returned]) -> Callable[[Any, dict[str, str]], _Returned]:
    """Wrap a model's `initialize`: bind its life to the server's, and turn known errors into Triton's."""

    @wraps(initialize)
    def started(model: Any, args: dict[str, str]) -> _Returned:
        die_with_parent()
        try:
            made = initialize(model, args)
        except HytrecError as error:
            raise pb_utils.TritonModelException(str(error)) from error
        if in_stub():  # what is there now stays; scanning it again and again would only delay requests
            gc.collect()
            gc.freeze()
        return made

    return started


def graph_of(args: Mapping[str, str]) -> Path:
    """The graph in the model's version folder."""
    return Path(args["model_repository"]) / args["model_version"] / GRAPH_FILE


def open_graph(
    graph: Path, model: Model, *, peers_idle: Callable[[], bool] = lambda: True, live: Live | None = None
) -> BatchedGraph:
    """A graph, open for as long as the process lives.

    Args:
        peers_idle, live: see `open_runner`.

    Raises:
        RepositoryError: the graph is missing, or onnxruntime rejects it.
        MissingPackageError: onnxruntime is not installed.
    """
    runner = ExitStack().enter_context(open_runner(model, graph, peers_idle=peers_idle, live=live))
    return BatchedGraph(
        model=model, infer=runner.infer, run_overhead=RUN_OVERHEAD[model.name], max_elements=MAX_ELEMENTS
    )


def settings_of(args: Mapping[str, str]) -> ServingSettings:
    """Settings of the build that the model belongs to.

    Raises:
        RepositoryError: they are missing or damaged.
    """
    return ServingSettings.load(repository_of(args))


def live_tables_of(args: Mapping[str, str], model: Model) -> Live | None:
    """The tables of a graph that stands in a process of its own.

    Raises:
        RepositoryError: a file of the repository is missing or damaged.
    """
    return CatalogWatch(repository_of(args), settings_of(args), models=[model.name]).live(model.name)


def item_table_of(args: Mapping[str, str], settings: ServingSettings) -> ItemTable | None:
    """The table that a model looks item vectors up in; None where its outputs have none.

    Raises:
        RepositoryError: it is missing or damaged.
    """
    outputs = {output["name"] for output in json.loads(args["model_config"])["output"]}
    if ITEM_VECTORS.name not in outputs:
        return None
    table = ItemTable.find(repository_of(args), settings)
    if table is None:
        raise RepositoryError(f"{repository_of(args) / ITEM_TABLE_FILE} is missing; build the repository again")
    return table


def vocabulary_of(args: Mapping[str, str]) -> Vocabulary:
    """Vocabulary of the build that the model belongs to.

    Raises:
        VocabularyError: it is missing or damaged.
    """
    return Vocabulary.load(repository_of(args) / VOCABULARY_FILE)


def store_of(
    settings: ServingSettings, opened: ExitStack, *, recent: int = 0, counters: Counters | None = None
) -> StateStore:
    """The state store that the server's environment names; `opened` closes it.

    Args:
        recent: users whose last state this process remembers, see `open_store`.
        counters: count what is found when the store is looked through, which one of the processes with counters does.

    Raises:
        OptionError: a variable is wrong, or names a store that cannot be shared between processes.
        StateStoreError: the store cannot be opened.
    """
    options = StoreOptions.from_environment()
    tell = None if counters is None else partial(_count_notice, counters)
    store = open_store(options, store_model(settings), served=True, recent=recent, tell=tell)
    opened.callback(store.close)
    return store


def _count_notice(counters: Counters, notice: Notice, count: int) -> None:
    counters.add(NOTICE_COUNTERS[notice], count)


def view_of(settings: ServingSettings, watch: CatalogWatch, *, max_hidden: int | None) -> LiveView:
    """The catalog, and the lists of items that the server's environment names.

    Args:
        max_hidden: rows that the retriever takes as excluded; None for any number.

    Raises:
        OptionError: a variable or a file is wrong.
    """
    load = partial(
        Eligibility.load,
        ItemLists.from_environment(os.environ),
        retrieved=settings.sizes.retrieved,
        max_hidden=max_hidden,
        texts={},
    )
    return LiveView(watch.current, lambda catalog: load(vocabulary=catalog.vocabulary, removed=catalog.removed))


def repository_of(args: Mapping[str, str]) -> Path:
    """The repository that the model stands in."""
    return Path(args["model_repository"]).parent
