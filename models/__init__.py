"""Frozen language models with deep prompts: loading, injection, what is tuned, conversion to and from PEFT."""
