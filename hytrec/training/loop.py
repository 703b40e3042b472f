"""Train a model on an event log and write a run folder; an interrupted training resumes from its last step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from scipy import sparse

from hytrec.config import ModelConfig
from hytrec.data.histories import Histories
from hytrec.data.item_features import ItemFeatures
from hytrec.data.popular import POPULAR_FILE, popular_keys
from hytrec.data.proximity import neighbor_table, proximity
from hytrec.data.sampling import TargetWeights, sampled_histories, training_users
from hytrec.data.split import Evaluation, Part, Repeats, Split, evaluation, training
from hytrec.data.target_behaviors import behavior_names
from hytrec.data.vocabulary import Vocabulary
from hytrec.errors import DataError
from hytrec.evaluation.evaluate import ranked
from hytrec.evaluation.fit_neighbors import ServedLists, fit_neighbors
from hytrec.evaluation.half_life import memory_half_lives
from hytrec.evaluation.metrics import RankingMetrics
from hytrec.modeling.model import HyTRec, build_model
from hytrec.run_folder import save_run, write_json, write_text
from hytrec.training.checkpoint import Epoch, Progress, Resumable
from hytrec.training.correction import fit_correction
from hytrec.training.devices import chosen_device, chosen_precision, device_name
from hytrec.training.journal import JOURNAL_FILE, Journal
from hytrec.training.options import Precision, TrainingOptions
from hytrec.training.session import Observer, Session, Silent
from hytrec.training.side_information import add_features, plain_weights, save_learned
from hytrec.training.start import Start, begin, kept_neighbors
from hytrec.training.trainer import Trainer

__all__ = ["Epoch", "Observer", "Silent", "Trained", "train"]

METRICS_FILE = "metrics.json"
MEMORY_FILE = "memory.json"


@dataclass(frozen=True, kw_only=True)
class Trained:
    """Result of a training.

    Args:
        model: on the CPU.
        metrics: validation and test metrics of retriever and retrieve-then-rerank.
        ranks: the ranks behind them, users in the order `hytrec.evaluation.evaluate.by_length`.
        half_lives: of every layer and head, in events.
    """

    model: HyTRec
    epochs: list[Epoch]
    metrics: dict[str, Any]
    ranks: dict[str, dict[str, RankingMetrics]]
    half_lives: list[list[float]]


def train(
    histories: Histories,
    vocabulary: Vocabulary,
    *,
    output: Path,
    config: ModelConfig,
    options: TrainingOptions | None = None,
    resume: bool = False,
    observer: Observer | None = None,
    source: dict[str, Any] | None = None,
    allow_repeats: bool = False,
    split: Split = Split.LAST,
    behaviors: Sequence[int] = (),
    features: ItemFeatures | None = None,
    documents: Mapping[str, str] | None = None,
    stop: Callable[[], int | None] = lambda: None,
) -> Trained:
    """Train, choose the best epoch by NDCG@10 on the validation part, and write the run folder.

    Args:
        histories: the whole log; of which some is held out (`hytrec.data.split`).
        output: the run folder.
        resume: from the checkpoint in `output`, if there is one; the weights are then those of an uninterrupted
            training (on the CPU bit by bit).
        source: where the log came from, JSON-able; kept in the run's config for `hytrec evaluate`.
        allow_repeats: whether items that a user had before are ranked in validation and test; kept in the run's config.
        split: how the log is cut; kept in the run's config.
        behaviors: rows of the behaviors to predict; none: all events are; kept in the run's config.
        features: of the items, a second input to their rows; the only one of items that nobody had in training.
        documents: texts by file name, written to `output` before the first step.
        stop: number of the signal that asked for a stop, asked after every step and in validations.

    Raises:
        DataError: no history is long enough to train on and to validate with.
        RunError: there is a run already and `resume` is off, or its checkpoint is of another training.
        Interrupted: a stop was asked for; a checkpoint is saved.
        TrainingError: the device is not there, or the loss is not finite.
    """
    options = options or TrainingOptions()
    device = chosen_device(options.device)
    precision = chosen_precision(options, device)
    known = training(histories, split, behaviors=behaviors)
    predicted = partial(evaluation, items=config.items, allow_repeats=allow_repeats, split=split, behaviors=behaviors)
    parts = {part: predicted(histories, part) for part in Part}
    _check_enough(histories, training_users(known).size, parts, split, some=bool(behaviors))
    protocol = _protocol(allow_repeats, split, behavior_names(vocabulary, behaviors), features)
    resumable = Resumable.of(output, config=config, options=options, vocabulary=vocabulary, protocol=protocol)
    fresh = None if resume else resumable.start()
    torch.manual_seed(options.seed)
    sample = parts[Part.VALIDATION].thinned(options.validation_users)
    near = proximity(known, items=config.items, keep=kept_neighbors(config.items, config.neighbors))
    model = build_model(replace(config, neighbors=0))
    start = begin(model, known, near, sample, options)
    trainer = Trainer(
        model.to(device),
        known,
        options,
        precision=precision,
        reversal=start.reversal,
        weights=TargetWeights(behaviors=behaviors, other=options.other_weight) if behaviors else None,
        cold=None if features is None else add_features(model, features, known),
    )
    progress = fresh or resumable.restore(trainer)
    _write(output, documents or {})
    journal = Journal(output / JOURNAL_FILE, every=options.log_steps, steps=trainer.steps, epochs=len(progress.epochs))
    session = Session(
        trainer=trainer,
        validation=sample,
        progress=progress,
        resumable=resumable,
        options=options,
        observer=observer or Silent(),
        journal=journal,
        stop=stop,
    )
    while not _finished(progress, options):
        session.train_epoch()
    save_learned(features, progress.best_weights, output)
    best = _with_neighbors(config, plain_weights(trainer.average, progress.best_weights), near).to(device)
    return _conclude(best, histories, vocabulary, config, session, source, parts, start, device, precision)


def _protocol(
    allow_repeats: bool,  # noqa: FBT001 - positional, as all of them
    split: Split,
    behaviors: Sequence[str],
    features: ItemFeatures | None,
) -> dict[str, Any]:
    """What a checkpoint must have been written with, by option."""
    return {
        "--repeats": Repeats.of(allowed=allow_repeats).value,
        "--split": split.value,
        "--target-behavior": behaviors,
        "--item-table": None if features is None else features.digest(),
    }


def _write(folder: Path, documents: Mapping[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in documents.items():
        write_text(folder / name, text)


def _with_neighbors(config: ModelConfig, weights: Mapping[str, torch.Tensor], near: sparse.csr_matrix) -> HyTRec:
    """The model of trained weights, with the table of neighbors, which training has no use for."""
    model = build_model(config)
    model.load_state_dict({**model.state_dict(), **weights})
    if model.neighbors is not None:
        model.neighbors.fill(*neighbor_table(near, model.neighbors.ids.shape[1]))
    return model.eval().requires_grad_(False)


def _check_enough(
    histories: Histories, trainable: int, parts: Mapping[Part, Evaluation], split: Split, *, some: bool
) -> None:
    """Raises: DataError: nobody can be trained on, or predicted in one of the parts; by `some` behaviors alone."""
    short = [part.value for part, found in parts.items() if not len(found)]
    lacking = (*short, *(() if trainable else ("training",)))
    if lacking and split is Split.TIME:
        raise DataError(
            f"none of {len(histories)} users is left for the {lacking[0]}: by time, users need events "
            "before the cut and after it; give --split last, or a log in which users come back"
        )
    if lacking and some:
        raise DataError(
            f"none of {len(histories)} users is left for the {lacking[0]}: users need two events of a "
            "--target-behavior and other events before them; name more behaviors, or give --repeats allow where the "
            "items were all had before"
        )
    if not trainable:
        raise DataError(
            f"none of {len(histories)} users can be trained on: the longest history has "
            f"{histories.lengths.max(initial=0)} events, the last two are held out; give a log in which users have "
            "four events or more"
        )
    for part, found in parts.items():
        if len(found):
            continue
        message = (
            f"none of {len(histories)} users is left for the {part}: {found.short_users} have under three events, "
            f"the {part} item of {found.unanswerable_users} is one that they had before"
        )
        if found.allow_repeats or not found.unanswerable_users:
            raise DataError(f"{message}; give a log in which users have four events or more")
        raise DataError(f"{message}; give --repeats allow, or a log in which users go on to new items")


def _finished(progress: Progress, options: TrainingOptions) -> bool:
    """Whether epochs, patience or minutes are used up; there is at least one epoch, cut short by the minutes."""
    if not progress.epochs:
        return False
    done = len(progress.epochs)
    return (
        done >= options.epochs
        or done - 1 - progress.best_epoch >= options.patience
        or (options.max_minutes is not None and progress.seconds >= 60 * options.max_minutes)
    )


def _conclude(
    model: HyTRec,
    histories: Histories,
    vocabulary: Vocabulary,
    config: ModelConfig,
    session: Session,
    source: dict[str, Any] | None,
    parts: Mapping[Part, Evaluation],
    start: Start,
    device: torch.device,
    precision: Precision,
) -> Trained:
    """Fit the reranker on the validation part, measure, and write the run folder."""
    output, options, progress = session.resumable.file.parent, session.options, session.progress
    session.observer.finishing("fitting the reranker")
    lists = ServedLists.of(model, parts[Part.VALIDATION])
    scales = fit_neighbors(model, lists)
    fitted = fit_correction(model, lists, candidates=options.rerank_candidates, seed=options.seed)
    measured = {Part.VALIDATION: session.validation, Part.TEST: parts[Part.TEST].thinned(options.test_users)}
    ranks = {part.value: ranked(model, own, progress=session.measuring(part, own)) for part, own in measured.items()}
    metrics = {part: {name: own.result() for name, own in found.items()} for part, found in ranks.items()}
    samples = sampled_histories(histories)
    half_lives = memory_half_lives(model, samples)
    training_record = {
        "source": source,
        "allow_repeats": parts[Part.TEST].allow_repeats,
        "split": session.resumable.identity["--split"],
        "target_behaviors": session.resumable.identity["--target-behavior"],
        "options": options.to_dict(),
        "device": device_name(device),
        "precision": precision.value,
        "best_epoch": progress.best_epoch,
        "epochs": len(progress.epochs),
        "minutes": round(progress.seconds / 60, 2),
        "start": asdict(start),
        "neighbors": None if scales is None else asdict(scales),
        "reranker": asdict(fitted),
    }
    write_json(output / METRICS_FILE, {**metrics, "epochs": [asdict(epoch) for epoch in progress.epochs]})
    write_json(output / MEMORY_FILE, {"half_life_events": half_lives})
    write_text(output / POPULAR_FILE, "".join(f"{key}\n" for key in popular_keys(histories, vocabulary)))
    save_run(output, config=config, training=training_record, model=model, vocabulary=vocabulary, samples=samples)
    return Trained(model=model.cpu(), epochs=progress.epochs, metrics=metrics, ranks=ranks, half_lives=half_lives)
