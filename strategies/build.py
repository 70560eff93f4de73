"""From settings to the parts of an algorithm: the only place that asks which."""

from __future__ import annotations

from federation.codec import Codec, rounded
from federation.settings import Settings
from strategies.drift import DeviceCorrection, Drift, NoCorrection, ServerCorrection
from strategies.fedpeptao import FedPepTAO
from strategies.server_optimizers import Momentum, ServerOptimizer


def build(settings: Settings, examples: int, codec: Codec) -> FedPepTAO:
    """The algorithm; examples: n, over all clients of the roll call."""
    return FedPepTAO(_drift(settings, examples, codec), _optimizer(settings), settings.server.server_learning_rate)


def _drift(settings: Settings, examples: int, codec: Codec) -> Drift:
    eta = settings.local.learning_rate
    match settings.server.drift_correction:
        case "none":
            return NoCorrection()
        case "server":
            return ServerCorrection(examples, eta)
        case "device":
            lost = settings.server.max_lost_share
            return DeviceCorrection(examples, eta, lost, as_sent=lambda c: rounded(codec, c).to(c.dtype))
        case other:
            raise AssertionError(f"settings let drift-correction = {other!r} through")


def _optimizer(settings: Settings) -> ServerOptimizer:
    match settings.server.server_optimizer:
        case "momentum":
            return Momentum(settings.server.server_momentum)
        case "none":
            return Momentum(0.0)
        case other:
            raise AssertionError(f"settings let server-optimizer = {other!r} through")
