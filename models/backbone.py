"""One frozen language model per process, and what the rest needs to know of it.

Loaded once, probed once, never trained: clients differ only in the row of tuned parameters that is bound to it.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from contextlib import AbstractContextManager, suppress

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from fedpeptao.errors import InputError
from models import head as heads
from models import skipping
from models.attention import PromptSlot
from models.checkpoint import Checkpoint, open_checkpoint
from models.probe import Probed, probe

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_DIGEST_VALUES = 64  # of each weight, spread evenly: enough to tell checkpoints apart, cheap at any size


class Backbone:
    """A frozen sequence classification model with a slot for prompts on each layer; made by `load_backbone`."""

    def __init__(self, name: str, checkpoint: Checkpoint, probed: Probed, dropout: float) -> None:
        self.name, self.source = name, checkpoint.source
        self.model: PreTrainedModel = checkpoint.model
        self.tokenizer: PreTrainedTokenizerBase = checkpoint.tokenizer
        self.slots: tuple[PromptSlot, ...] = probed.slots
        self.kv_heads, self.head_dim = probed.kv_heads, probed.head_dim
        self.fingerprint = _fingerprint(checkpoint)
        self.head: heads.Head | None = None  # until the labels are known
        self._blocks, self._missing, self._dropout = probed.blocks, checkpoint.missing, dropout
        self._as_tuple = False  # how blocks return; known once one has run
        self._held = heads.held_outside_base(self.model, checkpoint.missing)
        self._padding_idx = _padding_idx(self.model)
        self._arguments = frozenset(inspect.signature(self.model.forward).parameters)
        self.model.config.use_cache = False
        self.model.requires_grad_(False)
        _set_dropout(self.model, dropout)
        self.train(False)

    @property
    def num_layers(self) -> int:
        """L, layers that can be prompted."""
        return len(self.slots)

    @property
    def hidden_size(self) -> int:
        """d, size of a block's output."""
        return int(self.model.config.get_text_config().hidden_size)

    @property
    def device(self) -> torch.device:
        """Where the weights are; rows that are bound belong there too."""
        return next(self.model.parameters()).device

    @property
    def num_labels(self) -> int:
        """Classes of the head; 0 before `build_head`."""
        return int(self.model.config.num_labels or 0) if self.head else 0

    def build_head(self, kind: str, num_labels: int) -> None:
        """Make the head for `num_labels` classes, "linear" or "model"; values come from `PromptedModel.initial`.

        PromptedModels made before it are of no more use. InputError("head", kind) where the model cannot have it.
        """
        self.head = heads.build(self.model, kind, num_labels, self._held, self._missing)
        _set_dropout(self.model, self._dropout)
        self.train(False)
        ids = torch.full((1, 2), 5, device=self.device)
        with torch.no_grad():
            shape = tuple(self.model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.shape)
        if shape != (1, num_labels):
            raise InputError("head", kind, f"it gives scores of shape {shape} for one text", 'Use head = "model"')

    def train(self, mode: bool = True) -> None:
        """Switch dropout on or off; without a backbone dropout the model is always in evaluation mode."""
        self.model.train(mode and self._dropout > 0)

    def text_positions(self, prompt_tokens: int) -> int | None:
        """Tokens of the longest text, special tokens included, beside `prompt_tokens`; None where nothing limits it."""
        limit = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        if limit is None or limit <= 0:
            return None
        taken = 0 if self._padding_idx is None else self._padding_idx + 1
        return int(limit) - taken - prompt_tokens

    def position_ids(self, input_ids: Tensor, attention_mask: Tensor, prompt_tokens: int) -> Tensor | None:
        """Positions of the text tokens, int64 [B or 1, T], shifted by `prompt_tokens` as behind a cache of that length.

        None for models that take no positions. Families that count from a padding index (RoBERTa) leave padding at
        it; `attention_mask` [B, T] is not read by either rule, since neither do the models.
        """
        if "position_ids" not in self._arguments:
            return None
        if self._padding_idx is None:
            return torch.arange(prompt_tokens, prompt_tokens + input_ids.shape[1], device=input_ids.device)[None]
        real = input_ids.ne(self._padding_idx).long()
        return (real.cumsum(1) + prompt_tokens) * real + self._padding_idx

    def forward_arguments(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """What of `inputs` the model takes, on its device; a missing attention mask is all ones."""
        taken = {key: value.to(self.device) for key, value in inputs.items() if key in self._arguments}
        taken.setdefault("attention_mask", torch.ones_like(taken["input_ids"]))
        return taken

    @torch.no_grad()
    def states_entering(self, layer: int, inputs: dict[str, Tensor], prompt_tokens: int) -> Tensor:
        """Hidden states [B, T, d] that enter `layer`, dropout off; what lies above is not computed.

        Positions are shifted by `prompt_tokens`, as in a forward pass with prompts.
        """
        arguments = self.forward_arguments(inputs)
        positions = self.position_ids(arguments["input_ids"], arguments["attention_mask"], prompt_tokens)
        if positions is not None:
            arguments["position_ids"] = positions
        training = self.model.training
        self.model.train(False)
        try:
            with skipping.stop_before(self._blocks, layer) as caught, suppress(skipping.Reached):
                self.model.base_model(**arguments)
        finally:
            self.model.train(training)
        if caught.states is None:
            raise RuntimeError(f"layer {layer} of {self.name} was never reached")
        self._as_tuple = caught.as_tuple
        return caught.states

    def entering(self, layer: int, states: Tensor) -> AbstractContextManager[None]:
        """While it is open, a forward pass runs no layer below `layer`, which `states` of `states_entering` enter."""
        return skipping.skip_to(self._blocks, layer, states, self._as_tuple)

    @torch.no_grad()
    def block_outputs(self, inputs: dict[str, Tensor]) -> list[Tensor]:
        """Output [B, T, d] of each block, in the backbone's type, for the score (section 2.1 of docs/ALGORITHMS.md).

        Without prompts, without shift of positions, dropout off.
        """
        outputs: list[Tensor] = []

        def keep(module: nn.Module, given: object, output: Tensor | tuple[Tensor, ...]) -> None:
            outputs.append(output if isinstance(output, Tensor) else output[0])

        hooks = [block.register_forward_hook(keep) for block in self._blocks]
        training = self.model.training
        self.model.train(False)
        try:
            self.model.base_model(**self.forward_arguments(inputs))
        finally:
            self.model.train(training)
            for hook in hooks:
                hook.remove()
        return outputs


def load_backbone(
    name: str, *, seed: int = 0, dtype: str = "float32", device: str = "cpu", dropout: float = 0.0
) -> Backbone:
    """Load, freeze and probe a model.

    Args:
        name: "all-MiniLM-L6-v2" (from the demo extra), an absolute folder, "random:bert", "random:roberta",
            "random:gpt2", "random:llama", or a hub name.
        seed: of a random model's weights; of no other use.
        dtype: "float32", "bfloat16" or "float16", of the frozen weights.
        device: "auto" (a GPU where there is one), "cpu", "cuda" or "cuda:1".
        dropout: probability in the backbone while training; 0 keeps it off (rule 13 of docs/ARCHITECTURE.md).

    Raises:
        InputError: naming model, dtype, device or backbone-dropout.
    """
    if dtype not in _DTYPES:
        raise InputError("dtype", dtype, "there is no such type", f"Use one of {', '.join(_DTYPES)}")
    if not 0 <= dropout < 1:
        raise InputError("backbone-dropout", dropout, "a probability is needed", "Use a number from 0 to below 1")
    where = _device(device)
    checkpoint = open_checkpoint(name, seed, _DTYPES[dtype])
    checkpoint.model.to(where)  # type: ignore[arg-type]
    checkpoint.model.train(False)
    _pad(checkpoint, name)
    probed = probe(checkpoint.model, name)
    _check_missing(checkpoint, probed, name)
    return Backbone(name, checkpoint, probed, dropout)


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
    """A head may be missing from a checkpoint; blocks and embeddings may not."""
    inner = [checkpoint.model.get_input_embeddings(), *probed.blocks]
    paths = {module: path for path, module in checkpoint.model.named_modules()}
    lacking = sorted(key for key in checkpoint.missing if any(key.startswith(f"{paths[part]}.") for part in inner))
    if lacking:
        problem = f"its checkpoint lacks {len(lacking)} weights of the language model itself, such as {lacking[0]}"
        raise InputError("model", name, problem, "Give a checkpoint of a whole model, not of an adapter or a part")


def _padding_idx(model: PreTrainedModel) -> int | None:
    """Index from which positions are counted in the RoBERTa family; None elsewhere."""
    for path, module in model.named_modules():
        if path.endswith("position_embeddings") and isinstance(module, nn.Embedding) and module.padding_idx is not None:
            return int(module.padding_idx)
    return None


def _set_dropout(model: PreTrainedModel, dropout: float) -> None:
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = dropout
        elif isinstance(getattr(module, "attention_dropout", None), float):  # Llama keeps a number, not a module
            module.attention_dropout = dropout  # type: ignore[assignment]


def _fingerprint(checkpoint: Checkpoint) -> str:
    """Hex sha256 over base configuration, tokenizer and a spread sample of each weight of the base model."""
    config = checkpoint.model.config.to_dict()
    passing = ["_name_or_path", "transformers_version", "architectures", "use_cache", "dtype"]  # of no effect
    passing += ["id2label", "label2id", "num_labels"]  # of the head
    kept = {key: value for key, value in config.items() if key not in passing}
    digest = hashlib.sha256(json.dumps(kept, sort_keys=True, default=str).encode())
    digest.update(json.dumps(sorted(checkpoint.tokenizer.get_vocab().items())).encode())
    for name, weight in checkpoint.model.base_model.state_dict().items():
        if f"{checkpoint.model.base_model_prefix}.{name}" in checkpoint.missing:
            continue  # filled by chance; the head's values stand in its place
        flat = weight.flatten()
        sample = flat[:: max(1, flat.numel() // _DIGEST_VALUES)].double().cpu()
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode() + sample.numpy().tobytes())
    return digest.hexdigest()
