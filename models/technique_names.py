"""What can be tuned, by name. Apart from the code behind the names: settings are checked before torch is loaded."""

BY_LAYER = ("deep-prompts", "adapter", "lora")
"""With tensors of their own on each layer: layers can be selected, and others kept on the device."""
WHOLE = ("input-prompts", "late-prompts", "generated-prompts", "mixed-prompts")
"""With tensors that belong to no layer: all of them travel."""
TECHNIQUES = (*BY_LAYER, *WHOLE)
PROMPTS = ("deep-prompts", *WHOLE)
"""With prompt tokens, whose positions texts cannot have."""
DRAWN = ("deep-prompts", "input-prompts", "mixed-prompts")
"""With prompts that are tuned themselves, not made by a network: they begin as `prompt-init` says."""
BOTTLENECKS = ("adapter", "late-prompts", "generated-prompts", "mixed-prompts")
"""With a bottleneck of a size that can be set."""


def matrix_of(name: str) -> str:
    """Which of LoRA's two matrices a tensor is by its name, "A" or "B"; "" of anything else."""
    return name[-1] if name.startswith("lora.") and name[-2:] in (".A", ".B") else ""
