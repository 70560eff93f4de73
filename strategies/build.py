"""From settings to the parts of an algorithm: the only place that asks which."""

from __future__ import annotations

from collections.abc import Callable

from federation.channels import Channel
from federation.settings import Settings
from strategies import server_optimizers
from strategies.averaging import Averaged
from strategies.client_rows import ClientRows
from strategies.drift import DeviceCorrection, Drift, NoCorrection, ServerCorrection
from strategies.fedpeptao import Algorithm, FedPepTAO
from strategies.released import Released
from strategies.roster import Cohort
from strategies.server_optimizers import Adaptive, HeavyBall, Momentum, ServerOptimizer


def build(settings: Settings, cohort: Cohort, control: Channel, rows: Callable[[], ClientRows]) -> Algorithm:
    """The algorithm.

    Args:
        control: c goes down through it.
        rows: makes the store of per-client rows; called only if there is something to keep in it.
    """
    algorithm, decay = _trainer(settings, cohort, control, rows), settings.server.server_ema
    return Averaged(algorithm, decay) if decay else algorithm


def build_warm_up() -> FedPepTAO:
    """Plain averaging, of the rounds before the layers are selected (section 2.2 of docs/ALGORITHMS.md)."""
    return FedPepTAO(NoCorrection(), Momentum(0.0), eta_s=1.0)


def _trainer(settings: Settings, cohort: Cohort, control: Channel, rows: Callable[[], ClientRows]) -> Algorithm:
    server = settings.server
    if server.variant != "fedpeptao":
        sampled, aliased = settings.federation.clients_per_round, server.variant == "released-aliased"
        eta, eta_s = settings.local.learning_rate, server.server_learning_rate
        return Released(eta, eta_s, sampled, cohort.clients, aliased, rows())
    mean_steps = cohort.mean_steps if server.step_normalised else None
    drift = _drift(settings, cohort, control, rows)
    return FedPepTAO(drift, _optimizer(settings), server.server_learning_rate, mean_steps)


def _drift(settings: Settings, cohort: Cohort, control: Channel, rows: Callable[[], ClientRows]) -> Drift:
    eta = settings.local.learning_rate
    match settings.server.drift_correction:
        case "none":
            return NoCorrection()
        case "server":
            return ServerCorrection(cohort.examples, eta, rows())
        case "device":
            lost = settings.server.max_lost_share
            return DeviceCorrection(cohort.examples, eta, lost, control.as_sent, settings.local.step_sum)
        case other:
            raise AssertionError(f"settings let drift-correction = {other!r} through")


def _optimizer(settings: Settings) -> ServerOptimizer:
    server = settings.server
    match server.server_optimizer:
        case "none":
            return Momentum(0.0)
        case "momentum":
            return Momentum(server.server_momentum)
        case "heavy-ball":
            return HeavyBall(server.server_momentum)
        case "adam" | "yogi" | "adagrad" as name:
            second_moment = getattr(server_optimizers, name)
            return Adaptive(
                second_moment, server.server_momentum, server.server_second_momentum, server.server_adaptivity
            )
        case other:
            raise AssertionError(f"settings let server-optimizer = {other!r} through")
