"""FedPepTAO as published, at one learning rate: what studies here were made with that are not of the defaults."""

from __future__ import annotations

from federation.settings import Scalar

PUBLISHED: dict[str, Scalar] = {
    "drift-correction": "device",
    "label-prior": "none",
    "learning-rate": 0.01,
    "own-learning-rate": 1.0,
    "server-momentum": 0.9,
}
