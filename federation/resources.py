"""What a process loads once, however many clients or messages it serves: the model, the data, and who holds which rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor

from data import own, partition
from data.batches import Encoded, encode
from data.readers import Columns
from data.sources import DEFAULT, Splits, load_splits, order_labels
from data.tasks import Task, load_task
from federation import prompt_sources
from federation.metrics import ACCURACY
from federation.setting_groups import DataSettings, FederationSettings, ModelSettings
from federation.settings import Settings
from fedpeptao.errors import InputError
from models import techniques
from models.backbone import Backbone
from models.hidden_states import DTYPES, StateCache
from models.loading import load_backbone
from models.technique import Options
from models.tuned_model import TunedModel

STYLES = {"masked-lm": "mask", "causal-lm": "causal"}
"""Which template a kind of head needs; the others take texts as they are."""
_TOLD = 16  # hexadecimal digits: enough that no two models meet by chance


@dataclass(frozen=True)
class Tokenised:
    """The data set as token ids, by split."""

    train: Encoded
    validation: Encoded
    test: Encoded | None


@dataclass(frozen=True)
class Shards:
    """Row indices of each client's training and evaluation shard."""

    train: list[np.ndarray]
    validation: list[np.ndarray]


def set_threads(settings: Settings) -> None:
    """Torch's threads in this process; with one thread the same seed gives the same bits everywhere on one type of CPU."""
    if torch.get_num_threads() != settings.run.threads:
        torch.set_num_threads(settings.run.threads)


def backbone(settings: Settings) -> Backbone:
    """The frozen model."""
    return _backbone(settings.model, settings.federation.seed, tuple(label_words(settings).values()))


def label_words(settings: Settings) -> Mapping[str, str]:
    """The task's label words by label; {} where it has none."""
    task = _task(settings.data.task)
    return {} if task is None else task.words


def classes(settings: Settings, seen: Iterable[str]) -> list[str]:
    """The labels in the order of the classes: the task's, else those that were seen."""
    task = _task(settings.data.task)
    return order_labels(seen) if task is None else list(task.labels)


def all_labels(settings: Settings) -> list[str]:
    """The classes before anybody is asked: those that are named, the task's, else those of the whole training set.

    Of nodes' own data that is a node's own alone: who needs them all there has them named (federation/setting_rules.py).
    """
    return settings.data.named_labels or classes(settings, set(splits(settings).train["label"]))


def check_labels(settings: Settings) -> None:
    """InputError where `labels` holds one that the task does not know: no row of the data could have it."""
    task = _task(settings.data.task)
    unknown = [label for label in settings.data.named_labels if task is not None and label not in task.labels]
    if task is not None and unknown:
        problem = f"the task {task.name} does not know {', '.join(unknown[:5])}"
        raise InputError("labels", settings.data.labels, problem, f"Its labels are {', '.join(task.labels)}")


def adds_prior(settings: Settings) -> bool:
    """Whether each client adds its label prior to its class scores; "auto": where the loss is over the classes alone."""
    told = settings.personal.label_prior
    over_vocabulary = settings.model.label_loss == "vocabulary" and backbone(settings).head_kind in STYLES
    return told == "client" or (told == "auto" and not over_vocabulary)


def metric(settings: Settings) -> str:
    """The run's figure (federation/metrics.py): named by hand, the task's own, else accuracy."""
    if settings.run.metric != "auto":
        return settings.run.metric
    task = _task(settings.data.task)
    return ACCURACY if task is None else task.metric


def splits(settings: Settings) -> Splits:
    """The data set's rows; of nodes' own data a node's own (the server has a test set at most)."""
    return _splits(settings.data, settings.federation.seed, settings.federation.own_data)


def data_name(settings: Settings) -> str:
    """What both ends have to hold alike: the hash of the common data set, or that there is none."""
    return own.OWN_DATA if settings.federation.own_data else splits(settings).sha256


def frozen(settings: Settings) -> str:
    """Fingerprint of the model; behind a plus that of the prompts that are mixed, where some are."""
    model = backbone(settings)
    if not (mixed := _mixed_prompts(settings.model, model.embedding_size)):
        return model.fingerprint
    return f"{model.fingerprint}+{prompt_sources.fingerprint(mixed)}"


def frozen_name(settings: Settings) -> str:
    """What both ends have to hold alike: the beginnings of these fingerprints."""
    return "+".join(part[:_TOLD] for part in frozen(settings).split("+"))


def tokenised(settings: Settings) -> Tokenised:
    """The data set as token ids of the model's tokenizer."""
    words = tuple(label_words(settings).values())
    return _tokenised(settings.data, settings.model, settings.federation.seed, words, settings.federation.own_data)


def encoded(settings: Settings, rows: Dataset) -> Encoded:
    """Other rows (columns text, label, where there is one text_pair) as the run's own are read; nothing is kept."""
    words = tuple(label_words(settings).values())
    return _encoded(settings.data, settings.model, settings.federation.seed, words, rows)


def shards(settings: Settings) -> Shards:
    """Who holds which rows."""
    return _shards(settings.data, settings.federation)


def client_names(settings: Settings) -> list[str]:
    """What the clients are called, by number, where a column of the data says whose a row is; else []."""
    return partition.client_names(splits(settings))


def tuned(settings: Settings, layers: tuple[int, ...], labels: Sequence[str]) -> TunedModel:
    """The backbone with what is tuned on all layers, or on `layers` alone (section 2.3), and a head for these labels.

    Raises:
        InputError: the task has label words, and none for one of them.
    """
    model = backbone(settings)
    if settings.selection.unselected_prompts == "local":
        layers = tuple(range(model.num_layers))
    known, seed = label_words(settings), settings.federation.seed
    if unknown := [label for label in labels if known and label not in known]:
        problem = f"the task has no label word for {', '.join(unknown[:5])}"
        raise InputError("labels", ",".join(labels), problem, f"Its labels are {', '.join(known)}")
    words = tuple(known[label] for label in labels) if known else ()
    return _tuned(settings.model, seed, layers, len(labels), tuple(known.values()), words)


@lru_cache(maxsize=1)
def _task(place: str) -> Task | None:
    return load_task(place)


@lru_cache(maxsize=1)
def _backbone(model: ModelSettings, seed: int, words: tuple[str, ...]) -> Backbone:
    return load_backbone(
        model.model,
        seed=seed,
        dtype=model.dtype,
        device=model.device,
        dropout=model.backbone_dropout,
        head=model.head,
        words=words,
        autocast=model.autocast,
        quantisation=model.quantisation,
        gradient_checkpointing=model.gradient_checkpointing,
        unpadding=model.unpadding,
    )


@lru_cache(maxsize=1)
def _tuned(
    model: ModelSettings, seed: int, layers: tuple[int, ...], labels: int, task: tuple[str, ...], words: tuple[str, ...]
) -> TunedModel:
    loaded = _backbone(model, seed, task)
    loaded.build_head("auto", labels, words)
    technique = techniques.build(model.tuned, loaded, layers, _options(model, loaded))
    found = TunedModel(loaded, technique, model.label_loss)
    if model.backbone_dropout == 0 and model.hidden_cache_mb + model.hidden_cache_disk_mb > 0:
        megabyte = 2**20
        sizes = (model.hidden_cache_mb * megabyte, model.hidden_cache_disk_mb * megabyte)
        found.keep_lower_states(StateCache(DTYPES[model.hidden_cache_dtype], *sizes))
    return found


@lru_cache(maxsize=1)
def _mixed_prompts(model: ModelSettings, width: int) -> tuple[Tensor, ...]:
    """Earlier runs' prompts, each [N_p, d] float32; () where none are mixed."""
    return prompt_sources.load(model, width) if model.tuned == "mixed-prompts" else ()


def _options(model: ModelSettings, loaded: Backbone) -> Options:
    return Options(
        prompt_tokens=model.prompt_tokens,
        prompt_init=model.prompt_init,
        prompt_layer=model.prompt_layer,
        bottleneck=model.bottleneck,
        sources=_mixed_prompts(model, loaded.embedding_size),
        lora_rank=model.lora_rank,
        lora_alpha=model.lora_alpha,
        lora_targets=model.target_names,
    )


@lru_cache(maxsize=1)
def _splits(data: DataSettings, seed: int, own_data: bool) -> Splits:
    if own_data:
        return _own_splits(data, seed)
    return load_splits(
        data.dataset,
        task=_task(data.task),
        validation=data.validation,
        test=data.test,
        text_column=data.text_column,
        text_pair_column=data.text_pair_column,
        label_column=data.label_column,
        partition_column=data.partition_column,
        validation_fraction=data.validation_fraction,
        test_fraction=data.test_fraction,
        train_examples=data.train_examples,
        test_examples=data.test_examples,
        seed=seed,
    )


def _own_splits(data: DataSettings, seed: int) -> Splits:
    """A node's where its own settings named a file; else the server's, which has no data set."""
    task, columns = _task(data.task), Columns(data.text_column, data.text_pair_column, data.label_column, "")
    if data.dataset == DEFAULT:
        return own.read_server(data.test, task=task, columns=columns)
    return own.read_node(
        data.dataset,
        data.validation,
        task=task,
        columns=columns,
        validation_fraction=data.validation_fraction,
        seed=seed,
    )


@lru_cache(maxsize=1)
def _tokenised(
    data: DataSettings, model: ModelSettings, seed: int, words: tuple[str, ...], own_data: bool
) -> Tokenised:
    rows = _splits(data, seed, own_data)
    train, validation, test = (
        None if part is None else _encoded(data, model, seed, words, part)
        for part in (rows.train, rows.validation, rows.test)
    )
    assert train is not None
    assert validation is not None
    return Tokenised(train, validation, test)


def _encoded(data: DataSettings, model: ModelSettings, seed: int, words: tuple[str, ...], rows: Dataset) -> Encoded:
    if not len(rows):  # the server's, where nodes have their own: a tokenizer refuses no texts
        return Encoded([], None, [], cut=0)
    loaded = _backbone(model, seed, words)
    positions = loaded.text_positions(model.positions_taken)
    return encode(
        rows,
        loaded.tokenizer,
        max_length=data.max_length,
        positions=positions,
        task=_task(data.task),
        style=STYLES.get(loaded.head_kind),
    )


@lru_cache(maxsize=1)
def _shards(data: DataSettings, federation: FederationSettings) -> Shards:
    rows = _splits(data, federation.seed, federation.own_data)
    if federation.own_data:  # one client lives on a node, and has all that is there
        train, validation = (np.arange(len(table)) for table in (rows.train, rows.validation))
        return Shards([train] * federation.clients, [validation] * federation.clients)
    return Shards(
        *partition.partition(
            rows, clients=federation.clients, kind=federation.partition, alpha=federation.alpha, seed=federation.seed
        )
    )
