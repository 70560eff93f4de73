"""Conversion of tuned parameters to and from files: adapters of PEFT, as far as it has the technique, and plain safetensors."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from peft import TaskType
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from fedpeptao.errors import InputError
from models import prefix_tuning
from models.deep_prompts import DeepPrompts
from models.layout import Layout
from models.tuned_model import TunedModel

_ADAPTER, _HEAD, _LABELS = "adapter_model.safetensors", "head.safetensors", "labels.json"
_MODEL = "base_model.model"  # to PEFT, within a model whose own modules it changes
_MEND = "Use the model, head and prompt-tokens that made it"


def to_peft(model: TunedModel, values: Tensor, folder: Path, labels: Sequence[str]) -> str | None:
    """Write `values` [R] as an adapter folder that PEFT loads; None, or a line that says what PEFT cannot hold.

    `PeftModel.from_pretrained(base, folder)` then gives the same logits, where base is the model as
    - AutoModelForSequenceClassification (num_labels=...) with a head for classes (SEQ_CLS),
    - AutoModelForCausalLM with a decoder's own language-model head, of which nothing is tuned (CAUSAL_LM),
    - AutoModel, whose hidden states the head takes, for an encoder's language-model head or a linear head in the place of
      the model's own, which then lies beside the prompts (FEATURE_EXTRACTION).
    Where PEFT cannot hold what is tuned (`Technique.to_peft` says why), nothing is written.
    """
    backbone = model.backbone
    assert backbone.head is not None
    named = model.layout.unflatten(values.detach().cpu().float())
    found = model.technique.to_peft(named)
    if isinstance(found, str):
        return f"{found}: no adapter written"
    config, tensors = found
    kind, modules = _task_type(model), None
    if not config.is_prompt_learning:
        tensors = {_inside(model, name, kind): value for name, value in tensors.items()}
    folder.mkdir(parents=True, exist_ok=True)
    head = {name: named[f"head.{name}"].contiguous() for name in backbone.head.names}
    if kind == TaskType.SEQ_CLS:
        modules, whole = _saved_modules(model)
        base = "base_model" if config.is_prompt_learning else _MODEL
        tensors |= {f"{base}.{name}": head.get(name, value).contiguous() for name, value in whole.items()}
    elif head:
        save_file(head, folder / _HEAD)
    save_file(tensors, folder / _ADAPTER, metadata={"format": "pt"})
    config.task_type, config.base_model_name_or_path = kind, backbone.source
    config.inference_mode = True
    if modules:
        config.modules_to_save = modules  # type: ignore[attr-defined]
    config.save_pretrained(str(folder))
    (folder / _LABELS).write_text(json.dumps(list(labels), ensure_ascii=False) + "\n", encoding="utf-8")
    if kind != TaskType.FEATURE_EXTRACTION:
        return None
    if head:
        return f"PEFT cannot hold a linear head in place of the model's own: the adapter lacks it, {_HEAD} has it"
    return "PEFT has no masked language models: the adapter is for the bare model, whose checkpoint has the head"


def from_peft(model: TunedModel, folder: Path) -> Tensor:
    """The row [R] in an adapter folder of `to_peft` or PEFT; InputError("adapter", folder) where it does not fit."""
    backbone, prompts = model.backbone, model.technique
    assert backbone.head is not None
    if not isinstance(prompts, DeepPrompts) or len(prompts.layers) != backbone.num_layers:
        raise InputError("adapter", str(folder), "an adapter has a prompt on every layer", 'Use layers = "all"')
    tensors = _read("adapter", folder / _ADAPTER)
    name, shape = prefix_tuning.PROMPTS, prefix_tuning.shape(prompts)
    named = prefix_tuning.prompts_of(prompts, _fitting(tensors, name, shape, folder))
    prefix, head = ("", _read("adapter", folder / _HEAD)) if backbone.head.replaced else ("base_model.", tensors)
    for entry in model.layout.entries:
        if entry.layer is None:
            name = prefix + entry.name.removeprefix("head.")
            named[entry.name] = _fitting(head, name, entry.shape, folder)
    return model.layout.flatten(named)


def save_parameters(path: Path, layout: Layout, values: Tensor) -> None:
    """Write a row [R] as named tensors (safetensors)."""
    named = layout.unflatten(values.detach().cpu())
    save_file({name: value.contiguous() for name, value in named.items()}, path)


def load_named(path: Path) -> dict[str, Tensor]:
    """The tensors of a file of `save_parameters`, by name; InputError("parameters", path) where it cannot be read."""
    return _read("parameters", path)


def load_parameters(path: Path, layout: Layout) -> Tensor:
    """Read a row [R] that `save_parameters` wrote; InputError("parameters", path) where it does not fit `layout`."""
    try:
        return layout.flatten(load_named(path))
    except InputError:
        raise
    except ValueError as error:
        raise InputError("parameters", str(path), str(error), _MEND) from error


def _saved_modules(model: TunedModel) -> tuple[list[str], dict[str, Tensor]]:
    """Names of the modules that carry the head, and all their parameters: PEFT saves modules, not single tensors."""
    backbone = model.backbone
    assert backbone.head is not None
    prefix = f"{backbone.model.base_model_prefix}."
    modules: list[str] = []
    for name in backbone.head.names:
        module = name.rpartition(".")[0] if name.startswith(prefix) else name.partition(".")[0]
        if module not in modules:
            modules.append(module)
    named = backbone.model.named_parameters()
    return modules, {
        name: value.detach().cpu() for name, value in named if any(name.startswith(f"{module}.") for module in modules)
    }


def _inside(model: TunedModel, name: str, kind: TaskType) -> str:
    """PEFT's name of a tensor in a module of the model, which is the bare one for features."""
    bare = f"{model.backbone.model.base_model_prefix}."
    return f"{_MODEL}.{name.removeprefix(bare) if kind == TaskType.FEATURE_EXTRACTION else name}"


def _task_type(model: TunedModel) -> TaskType:
    """Which of PEFT's wrappers meets the model that the prompts belong to."""
    head = model.backbone.head
    assert head is not None
    if head.names:
        return TaskType.FEATURE_EXTRACTION if head.replaced else TaskType.SEQ_CLS
    return TaskType.CAUSAL_LM if model.backbone.model.can_generate() else TaskType.FEATURE_EXTRACTION


def _read(key: str, path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise InputError(key, str(path), "there is no such file", "Give what a run has written")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise InputError(key, str(path), f"it cannot be read ({error})", "Give what a run has written") from error


def _fitting(tensors: dict[str, Tensor], name: str, shape: tuple[int, ...], folder: Path) -> Tensor:
    if name not in tensors:
        raise InputError("adapter", str(folder), f"{name} is missing, expected shape {shape}", _MEND)
    if (found := tuple(tensors[name].shape)) != shape:
        raise InputError("adapter", str(folder), f"{name} has shape {found}, expected {shape}", _MEND)
    return tensors[name].float()
