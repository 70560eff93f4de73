"""The techniques by name: the only place that asks which."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from models.backbone import Backbone
from models.deep_prompts import DeepPrompts
from models.technique import Options, Technique

_BUILDERS: dict[str, Callable[[Backbone, Sequence[int], Options], Technique]] = {
    "deep-prompts": lambda backbone, layers, options: DeepPrompts(backbone, layers, options.prompt_tokens),
}


def build(name: str, backbone: Backbone, layers: Sequence[int], options: Options) -> Technique:
    """The technique `name` of `models.technique_names` on these layers, as far as it has layers."""
    return _BUILDERS[name](backbone, layers, options)
