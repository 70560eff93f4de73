"""The techniques by name: the only place that asks which."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from models.adapter import Adapters
from models.backbone import Backbone
from models.deep_prompts import DeepPrompts
from models.generated_prompts import GeneratedPrompts
from models.input_prompts import InputPrompts
from models.late_prompts import LatePrompts
from models.lora import LowRank
from models.mixed_prompts import MixedPrompts
from models.technique import Options, Technique

_BUILDERS: dict[str, Callable[[Backbone, Sequence[int], Options], Technique]] = {
    "deep-prompts": lambda backbone, layers, o: DeepPrompts(backbone, layers, o.prompt_tokens, o.prompt_init),
    "adapter": lambda backbone, layers, o: Adapters(backbone, layers, o.bottleneck),
    "lora": lambda backbone, layers, o: LowRank(backbone, layers, o.lora_rank, o.lora_alpha, o.lora_targets),
    "input-prompts": lambda backbone, _, o: InputPrompts(backbone, o.prompt_tokens, o.prompt_init),
    "late-prompts": lambda backbone, _, o: LatePrompts(backbone, o.prompt_tokens, o.prompt_layer, o.bottleneck),
    "generated-prompts": lambda backbone, _, o: GeneratedPrompts(backbone, o.prompt_tokens, o.bottleneck),
    "mixed-prompts": lambda backbone, _, o: MixedPrompts(
        backbone, o.prompt_tokens, o.prompt_init, o.bottleneck, o.sources
    ),
}


def build(name: str, backbone: Backbone, layers: Sequence[int], options: Options) -> Technique:
    """The technique `name` of `models.technique_names` on these layers, as far as it has layers."""
    return _BUILDERS[name](backbone, layers, options)
