"""From a name to a frozen, probed backbone: whatever cannot be had is refused here, before anything starts."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from fedpeptao.errors import InputError
from models.backbone import Backbone
from models.checkpoint import Checkpoint, Form, open_checkpoint
from models.language_kind import LANGUAGE
from models.probe import Probed, can_do_without_padding, probe
from models.quantisation import KINDS as QUANTISED
from models.recompute import recompute_blocks

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_backbone(
    name: str,
    *,
    seed: int = 0,
    dtype: str = "float32",
    device: str = "cpu",
    dropout: float = 0.0,
    head: str = "linear",
    words: Sequence[str] = (),
    autocast: str = "none",
    quantisation: str = "none",
    gradient_checkpointing: bool = False,
    unpadding: bool = False,
) -> Backbone:
    """Load, freeze and probe a model.

    Args:
        name: "all-MiniLM-L6-v2" (from the demo extra), an absolute folder, "random:bert", "random:roberta",
            "random:gpt2", "random:llama", or a hub name.
        seed: of a random model's weights; of no other use.
        dtype: "float32", "bfloat16" or "float16", of the frozen weights.
        device: "auto" (a GPU where there is one), "cpu", "cuda" or "cuda:1".
        dropout: probability in the backbone while training; 0 keeps it off (rule 13 of docs/ARCHITECTURE.md).
        head: "auto", "linear", "model", "masked-lm" or "causal-lm". "auto" is the language model's own head if the task has
            label words and the checkpoint holds that head's weights, else "linear".
        words: the task's label words, in any order; () if it has none.
        autocast: "none", "bfloat16" or "float16", of the forward pass.
        quantisation: "none", "int8" or "int4", of the base model's linear layers.
        gradient_checkpointing: compute a block's activations again in the backward pass in place of keeping them.
        unpadding: leave padding out of what is done token by token, where the family lets it, and without checkpointing.

    Raises:
        InputError: naming model, head, words, dtype, device, backbone-dropout, autocast or quantisation.
    """
    if dtype not in _DTYPES:
        raise InputError("dtype", dtype, "there is no such type", f"Use one of {', '.join(_DTYPES)}")
    if autocast not in ("none", "bfloat16", "float16"):
        raise InputError("autocast", autocast, "there is no such type", "Use none, bfloat16 or float16")
    if quantisation not in QUANTISED:
        raise InputError("quantisation", quantisation, "there is no such kind", f"Use one of {', '.join(QUANTISED)}")
    if not 0 <= dropout < 1:
        raise InputError("backbone-dropout", dropout, "a probability is needed", "Use a number from 0 to below 1")
    form = Form(head, tuple(words), _DTYPES[dtype], quantisation, _device(device))
    checkpoint = open_checkpoint(name, seed, form)
    checkpoint.model.train(False)
    _pad(checkpoint, name)
    probed = probe(checkpoint.model, name)
    _check_missing(checkpoint, probed, name)
    backbone = Backbone(name, checkpoint, probed, dropout, tuple(words))
    backbone.autocast = None if autocast == "none" else _DTYPES[autocast]
    if gradient_checkpointing:
        recompute_blocks(probed.blocks, probed.slots)
    backbone.leaves_out_padding = unpadding and not gradient_checkpointing and can_do_without_padding(backbone)
    return backbone


def _device(device: str) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
    except RuntimeError:
        found = None
    if found is None or found.type not in ("cpu", "cuda"):
        raise InputError("device", device, "there is no such device", 'Use "auto", "cpu", "cuda" or "cuda:1"')
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if found.type == "cuda" and (found.index or 0) >= gpus:
        raise InputError("device", device, f"this machine has {gpus} usable GPUs", 'Use "auto" or "cpu"')
    return found


def _pad(checkpoint: Checkpoint, name: str) -> None:
    """A padding token for model and tokenizer: decoders find a text's last token by it."""
    tokenizer, config = checkpoint.tokenizer, checkpoint.model.config.get_text_config()
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            mend = "Add a padding token to the tokenizer in the model's folder"
            raise InputError("model", name, "its tokenizer has neither a padding nor an end token", mend)
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"
    if config.pad_token_id is None:
        config.pad_token_id = tokenizer.pad_token_id


def _check_missing(checkpoint: Checkpoint, probed: Probed, name: str) -> None:
    """A classifier may be missing from a checkpoint; blocks, embeddings and a language model's head may not."""
    inner = [checkpoint.model.get_input_embeddings(), *probed.blocks]
    paths = {module: path for path, module in checkpoint.model.named_modules()}
    lacking = sorted(key for key in checkpoint.missing if any(key.startswith(f"{paths[part]}.") for part in inner))
    if lacking:
        problem = f"its checkpoint lacks {len(lacking)} weights of the language model itself, such as {lacking[0]}"
        raise InputError("model", name, problem, "Give a checkpoint of a whole model, not of an adapter or a part")
    if checkpoint.kind in LANGUAGE and checkpoint.missing:
        problem = f"the checkpoint lacks weights of that head, such as {min(checkpoint.missing)}"
        raise InputError(
            "head", checkpoint.kind, problem, 'Set head to "auto" or "linear", or give a checkpoint with it'
        )
