"""FedPepTAO: federated tuning of frozen language models with deep prompts, as one Flower application."""

__version__ = "0.1.0"
