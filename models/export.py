"""Conversion of tuned parameters to and from files: PEFT's prefix-tuning adapter, and plain safetensors.

PEFT keeps all prompts in one matrix [N_p, L * 2 * kv_heads * head_dim], so its format holds only models with a
prompt on each layer.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from peft import PrefixTuningConfig, TaskType
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from fedpeptao.errors import InputError
from models.layout import Layout
from models.prompted import PromptedModel

_ADAPTER, _HEAD, _LABELS = "adapter_model.safetensors", "head.safetensors", "labels.json"
_PROMPTS = "prompt_embeddings"  # PEFT's name for the matrix
_MEND = "Use the model, head and prompt-tokens that made it"


def to_peft(model: PromptedModel, values: Tensor, folder: Path, labels: Sequence[str]) -> str | None:
    """Write `values` [R] as an adapter folder that PEFT loads; None, or a line that says what PEFT cannot hold.

    `PeftModel.from_pretrained(base, folder)` then gives the same logits, where base is the model as
    - AutoModelForSequenceClassification (num_labels=...) with a head for classes (SEQ_CLS),
    - AutoModelForCausalLM with a decoder's own language-model head, of which nothing is tuned (CAUSAL_LM),
    - AutoModel, whose hidden states the head takes, for an encoder's language-model head or a linear head in the place of
      the model's own, which then lies beside the prompts (FEATURE_EXTRACTION).
    A layer without a prompt, or a model that takes no past keys and values (DistilBERT, ModernBERT): nothing is written.
    """
    backbone = model.backbone
    if "past_key_values" not in inspect.signature(backbone.model.base_model.forward).parameters:
        name = type(backbone.model.base_model).__name__
        return f"{name} takes no past keys and values, which prompts are to PEFT: no adapter written"
    if without := sorted(set(range(backbone.num_layers)) - set(model.layers)):
        return f"PEFT's prefix tuning puts a prompt on every layer, and layers {without} have none: no adapter written"
    assert backbone.head is not None
    named = model.layout.unflatten(values.detach().cpu().float())
    tensors = {_PROMPTS: _to_matrix(torch.stack([named[f"prompt.{layer}"] for layer in model.layers]))}
    folder.mkdir(parents=True, exist_ok=True)
    head = {name: named[f"head.{name}"].contiguous() for name in backbone.head.names}
    kind, modules = _task_type(model), None
    if kind == TaskType.SEQ_CLS:
        modules, whole = _saved_modules(model)
        tensors |= {f"base_model.{name}": head.get(name, value).contiguous() for name, value in whole.items()}
    elif head:
        save_file(head, folder / _HEAD)
    save_file(tensors, folder / _ADAPTER, metadata={"format": "pt"})
    _config(model, kind, modules).save_pretrained(str(folder))
    (folder / _LABELS).write_text(json.dumps(list(labels), ensure_ascii=False) + "\n", encoding="utf-8")
    if kind != TaskType.FEATURE_EXTRACTION:
        return None
    if head:
        return f"PEFT cannot hold a linear head in place of the model's own: the adapter has prompts, {_HEAD} the head"
    return "PEFT has no masked language models: the adapter is for the bare model, whose checkpoint has the head"


def from_peft(model: PromptedModel, folder: Path) -> Tensor:
    """The row [R] in an adapter folder of `to_peft` or PEFT; InputError("adapter", folder) where it does not fit."""
    backbone = model.backbone
    assert backbone.head is not None
    if len(model.layers) != backbone.num_layers:
        raise InputError("adapter", str(folder), "an adapter has a prompt on every layer", 'Use layers = "all"')
    tensors = _read("adapter", folder / _ADAPTER)
    d_kv = backbone.kv_heads * backbone.head_dim
    shape = (model.prompt_tokens, backbone.num_layers * 2 * d_kv)
    prompts = _from_matrix(_fitting(tensors, _PROMPTS, shape, folder), backbone.num_layers, backbone.kv_heads)
    named = {f"prompt.{layer}": prompts[layer] for layer in model.layers}
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


def _to_matrix(prompts: Tensor) -> Tensor:
    """[L, 2, kv_heads, N_p, head_dim] to PEFT's [N_p, L * 2 * kv_heads * head_dim]."""
    return prompts.flatten(0, 1).permute(2, 0, 1, 3).flatten(1).contiguous()


def _from_matrix(matrix: Tensor, layers: int, kv_heads: int) -> Tensor:
    """Inverse of `_to_matrix`."""
    return matrix.reshape(len(matrix), layers, 2, kv_heads, -1).permute(1, 2, 3, 0, 4)


def _saved_modules(model: PromptedModel) -> tuple[list[str], dict[str, Tensor]]:
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


def _task_type(model: PromptedModel) -> TaskType:
    """Which of PEFT's wrappers meets the model that the prompts belong to."""
    head = model.backbone.head
    assert head is not None
    if head.names:
        return TaskType.FEATURE_EXTRACTION if head.replaced else TaskType.SEQ_CLS
    return TaskType.CAUSAL_LM if model.backbone.model.can_generate() else TaskType.FEATURE_EXTRACTION


def _config(model: PromptedModel, kind: TaskType, modules: list[str] | None) -> PrefixTuningConfig:
    backbone = model.backbone
    return PrefixTuningConfig(
        task_type=kind,
        base_model_name_or_path=backbone.source,
        inference_mode=True,
        num_virtual_tokens=model.prompt_tokens,
        num_layers=backbone.num_layers,
        num_attention_heads=backbone.kv_heads,  # of keys and values: fewer than of queries where they are grouped
        token_dim=backbone.kv_heads * backbone.head_dim,
        num_transformer_submodules=1,
        encoder_hidden_size=backbone.hidden_size,
        modules_to_save=modules,
    )


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
