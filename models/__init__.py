"""Frozen language models: loading, what is tuned in them (prompts, LoRA, adapters), heads, conversion to and from PEFT."""
