"""Which model families work, with which heads, and which of them PEFT can hold: the table of docs/MODELS.md.

    python -m experiments.families            prints the table and writes results/families/families.json

Each family is a two-layer model with random weights, saved and loaded as a user's would be.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from peft import PeftModel
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING
from transformers.utils import logging as reports

from experiments.family_configurations import FAMILIES, VOCABULARY, Family
from fedpeptao.errors import InputError
from models import deep_prompts
from models.backbone import Backbone
from models.export import to_peft
from models.loading import load_backbone
from models.probe import can_do_without_padding
from models.random_models import random_tokenizer
from models.tuned_model import TunedModel

WORDS = ("great", "terrible", "acceptable")
"""Tokens of the tokenizer that is saved with each model."""
PROMPT_TOKENS, CLASSES, STD = 2, 3, 0.5
LENGTHS = (20, 3, 9, 1)
SHORT = (5, 3, 4, 1)  # within a window of 8 with 2 prompt tokens before them: there PEFT agrees
RESULTS = Path(__file__).resolve().parent.parent / "results" / "families" / "families.json"


@dataclass(frozen=True)
class Found:
    """What was measured for a family; `away` are largest differences of scores.

    Attributes:
        refused: the problem that loading it names, "" if it works.
        words: kind of the head that label words use.
        gather_away: between the positions that matter alone and the whole text through the output layer.
        positions: tokens of the longest text beside 2 prompt tokens, None without a limit.
        peft_away: between PEFT's model of the exported classifier and ours, at texts within the window if there is one.
        peft_away_beyond: the same at longer texts, where there is a window: PEFT's prompts count as text, and fall out of it.
        no_peft: why there is none.
        unpadded_away: between a pass without padding and one with it; None for a family that keeps its padding.
    """

    family: str
    refused: str = ""
    words: str = ""
    gather_away: float | None = None
    positions: int | None = None
    peft_away: float | None = None
    peft_away_beyond: float | None = None
    no_peft: str = ""
    unpadded_away: float | None = None


def save(family: Family, folder: Path, *, classifier: bool = False) -> Path:
    """The family's language model (or classifier) and a tokenizer; weights large enough for attention to tell texts apart."""
    language = AutoModelForMaskedLM if family.masked else AutoModelForCausalLM
    auto: Any = AutoModelForSequenceClassification if classifier else language
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(7)
        family.config.num_labels = CLASSES
        model: PreTrainedModel = auto.from_config(family.config)  # type: ignore[no-untyped-call]
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.mul_(4)
    model.save_pretrained(folder)
    random_tokenizer(family.tokenizer, WORDS).save_pretrained(folder)
    return folder


def load(folder: Path, **options: Any) -> Backbone:
    """`load_backbone`, with the saved tokenizer as it is: some families have a tokenizer class that reads no bytes."""
    with patch("models.checkpoint.AutoTokenizer", PreTrainedTokenizerFast):
        return load_backbone(str(folder), **options)


def by_words(folder: Path, layers: Sequence[int] = (0, 1), loss: str = "vocabulary", **options: Any) -> TunedModel:
    """The saved language model, deciding by `WORDS`."""
    backbone = load(folder, **{"head": "auto", "words": WORDS, **options})
    backbone.build_head("auto", len(WORDS), WORDS)
    return deep_prompts.prompted(backbone, layers, PROMPT_TOKENS, loss)


def bound(model: TunedModel, seed: int = 1) -> Tensor:
    """A row [R] that is bound to the model, with gradients."""
    row = model.initial(seed, std=STD).requires_grad_()
    model.bind(row[None])
    return row


def texts(model: TunedModel, lengths: Sequence[int] = LENGTHS) -> dict[str, Tensor]:
    """Random tokens, padded on the right; the answer stands in the middle of an encoder's text, at the end of a decoder's."""
    generator, size = torch.Generator().manual_seed(3), torch.tensor(lengths)
    ids = torch.randint(10, 250, (len(lengths), max(lengths)), generator=generator)
    mask = torch.arange(max(lengths))[None] < size[:, None]
    ids = ids.where(mask, int(model.backbone.tokenizer.pad_token_id))
    answer_at = size // 2 if model.backbone.head_kind == "masked-lm" else size - 1
    return {"input_ids": ids, "attention_mask": mask.long(), "answer_at": answer_at}


def whole_output(model: TunedModel, inputs: dict[str, Tensor], row: Tensor) -> Tensor:
    """Every position through the output layer, [B, T, vocabulary]: the model's own forward pass, prompts put in by hand."""
    backbone, values = model.backbone, model.layout.unflatten(row[None])
    for layer in model.layers:
        backbone.slots[layer].prompt = values[f"prompt.{layer}"]
    arguments = backbone.forward_arguments(inputs)
    positions = backbone.position_ids(arguments["input_ids"], arguments["attention_mask"], model.technique.shift)
    arguments |= {} if positions is None else {"position_ids": positions}
    try:
        return backbone.model(**arguments).logits.float()
    finally:
        for slot in backbone.slots:
            slot.prompt = None


def measure(name: str, folder: Path) -> Found:
    """Loads, scores and exports one family."""
    family = FAMILIES[name]
    try:
        model = by_words(save(family, folder / "language"))
    except InputError as error:
        return Found(name, refused=error.problem)
    inputs, row = texts(model), bound(model)
    assert model.backbone.language is not None
    with torch.no_grad():
        scores, whole = model.logits(inputs), whole_output(model, inputs, row).log_softmax(-1)
    tokens = model.backbone.language.tokens[:, 0]
    expected = whole[torch.arange(len(LENGTHS)), inputs["answer_at"]][:, tokens]
    away, no_peft = _peft(family, folder, SHORT)
    return Found(
        name,
        words=model.backbone.head_kind,
        gather_away=float((scores - expected).abs().max()),
        positions=model.backbone.text_positions(PROMPT_TOKENS),
        peft_away=away,
        peft_away_beyond=_peft(family, folder, LENGTHS)[0] if family.windowed else None,
        no_peft=no_peft,
        unpadded_away=_unpadded(model, inputs, scores),
    )


def _unpadded(model: TunedModel, inputs: dict[str, Tensor], scores: Tensor) -> float | None:
    """The largest difference of scores without padding, where the family lets it be left out."""
    backbone = model.backbone
    if not can_do_without_padding(backbone):
        return None
    backbone.leaves_out_padding = True
    try:
        with torch.no_grad():
            return float((model.logits(inputs) - scores).abs().max())
    finally:
        backbone.leaves_out_padding = False


def _peft(family: Family, folder: Path, lengths: Sequence[int]) -> tuple[float | None, str]:
    """The exported classifier in PEFT against ours: the largest difference, or why PEFT cannot run it."""
    if type(family.config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        return None, "transformers has no classifier of this family"
    try:
        backbone = load(save(family, folder / "classifier", classifier=True), head="model")
    except InputError as error:
        return None, error.problem
    backbone.build_head("model", CLASSES)
    model = deep_prompts.prompted(backbone, (0, 1), PROMPT_TOKENS)
    inputs, row = texts(model, lengths), bound(model)
    if told := to_peft(model, row, folder / "adapter", [str(label) for label in range(CLASSES)]):
        return None, told
    plain = AutoModelForSequenceClassification.from_pretrained(folder / "classifier", num_labels=CLASSES)
    given = {key: inputs[key] for key in ("input_ids", "attention_mask")}
    try:
        with torch.no_grad():
            theirs = PeftModel.from_pretrained(plain, str(folder / "adapter")).eval()(**given).logits
            return float((theirs - model.logits(inputs)).abs().max()), ""
    except Exception as error:  # whatever PEFT raises means the same: it cannot hold this family
        return None, f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


def as_table(found: Sequence[Found]) -> str:
    """Markdown, one row a family."""
    lines = [
        "| family | works | label words | PEFT | longest text of 64 positions | without padding | why not |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in found:
        if row.refused:
            lines.append(f"| {row.family} | no | | | | | {row.refused} |")
            continue
        peft = "yes" if row.peft_away is not None and row.peft_away < 1e-5 else "no"
        peft = f"{peft}, up to the window" if row.peft_away_beyond else peft
        away = "" if peft != "no" or row.peft_away is None else f"its scores differ by {row.peft_away:.1e}"
        why = f"PEFT: {row.no_peft or away}" if row.no_peft or away else ""
        limit = "none" if row.positions is None else str(row.positions)
        unpadded = "no" if row.unpadded_away is None else "yes"
        lines.append(f"| {row.family} | yes | {row.words} | {peft} | {limit} | {unpadded} | {why} |")
    return "\n".join(lines)


def main() -> None:
    """Measures every family, prints the table, writes the raw figures."""
    reports.set_verbosity_error()  # type: ignore[no-untyped-call]
    reports.disable_progress_bar()  # type: ignore[no-untyped-call]
    with tempfile.TemporaryDirectory() as folder:
        found = [measure(name, Path(folder) / name) for name in FAMILIES]
    print(as_table(found))
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    facts = {"command": "python -m experiments.families", "vocabulary": VOCABULARY, "prompt_tokens": PROMPT_TOKENS}
    text = json.dumps({**facts, "families": [asdict(row) for row in found]}, indent=1)
    RESULTS.write_text(text + "\n", encoding="utf8")


if __name__ == "__main__":
    main()
