"""FedPepTAO and FibecFed: federated tuning of frozen language models, as one Flower application."""

__version__ = "0.1.0"
