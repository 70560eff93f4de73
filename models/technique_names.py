"""What can be tuned, by name. Apart from the code behind the names: settings are checked before torch is loaded."""

BY_LAYER = ("deep-prompts",)
"""With tensors of their own on each layer: layers can be selected, and others kept on the device."""
WHOLE: tuple[str, ...] = ()
"""With tensors that belong to no layer: all of them travel."""
TECHNIQUES = (*BY_LAYER, *WHOLE)
PROMPTS = ("deep-prompts",)
"""With prompt tokens, whose positions texts cannot have."""
