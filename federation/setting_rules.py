"""Settings that are fine alone and contradict each other."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from fedpeptao.errors import InputError
from models.technique_names import BY_LAYER

if TYPE_CHECKING:
    from federation.settings import Scalar, Settings


def check_together(s: Settings) -> None:
    """Refuse settings that contradict each other.

    Raises:
        InputError: naming one of them, its value, and the mend.
    """
    if s.federation.clients_per_round > s.federation.clients:
        raise InputError(
            "clients-per-round",
            s.federation.clients_per_round,
            f"there are only {s.federation.clients} clients",
            "Lower it, or raise clients",
        )
    if s.federation.clients_per_round + s.federation.over_sampling > s.federation.clients:
        problem = (
            f"with clients-per-round = {s.federation.clients_per_round} there are only {s.federation.clients} clients"
        )
        raise InputError("over-sampling", s.federation.over_sampling, problem, "Lower one of them, or raise clients")
    if s.federation.quorum > s.federation.clients_per_round:
        problem = f"a round has no more than clients-per-round = {s.federation.clients_per_round} replies"
        raise InputError("quorum", s.federation.quorum, problem, "Lower it, or raise clients-per-round")
    _check_beginning(s)
    if s.data.validation_fraction + s.data.test_fraction >= 1:
        raise InputError(
            "validation-fraction",
            s.data.validation_fraction,
            f"with test-fraction = {s.data.test_fraction} nothing is left to train on",
            "Make the two add up to less than 1",
        )
    if s.local.device_momentum and s.local.device_optimizer != "sgd":
        mend = "Set it to 0, or device-optimizer to sgd"
        raise InputError("device-momentum", s.local.device_momentum, "adam has a momentum of its own", mend)
    if s.local.device_optimizer == "sgd":
        if s.local.device_second_moment == "shared":
            mend = "Set device-optimizer to adam, or device-second-moment to local"
            raise InputError("device-second-moment", "shared", "sgd has no second moment", mend)
        if not s.local.restart_moments:
            mend = "Set device-optimizer to adam, or restart-moments to true"
            raise InputError("restart-moments", False, "sgd has no moments to go on with", mend)
    if s.local.clients_together > 1 and s.model.backbone_dropout > 0:
        problem = f"with backbone-dropout = {s.model.backbone_dropout:g} a client's result would depend on its company"
        raise InputError("clients-together", s.local.clients_together, problem, "Set one of them to its default")
    _check_tuned(s)
    _check_lora(s)
    _check_curriculum(s)
    _check_partition(s)
    _check_score(s)
    _check_variant(s)
    _check_estimator(s)


def _check_beginning(s: Settings) -> None:
    """A run that begins without some clients begins with enough for a round."""
    least = s.federation.min_clients
    if least > s.federation.clients:
        problem = f"there are only {s.federation.clients} clients"
        raise InputError("min-clients", least, problem, "Lower it, or raise clients")
    if 0 < least < s.federation.quorum:
        problem = f"a round needs quorum = {s.federation.quorum} replies"
        raise InputError("min-clients", least, problem, "Raise it, or lower quorum")


def _check_tuned(s: Settings) -> None:
    """What has no layers leaves none to select; what mixes needs something to mix."""
    if s.model.tuned not in BY_LAYER and s.selection.layers != "all":
        problem = f"tuned = {_toml(s.model.tuned)} has nothing that belongs to a layer, so all of it travels"
        raise InputError("layers", s.selection.layers, problem, 'Set layers to "all"')
    if s.model.tuned == "mixed-prompts" and not s.model.source_folders:
        mend = 'Name folders of runs with tuned = "input-prompts", with commas between them'
        raise InputError("prompt-sources", s.model.prompt_sources, "mixed prompts need some to mix", mend)


def _check_lora(s: Settings) -> None:
    """Which of LoRA's parameters are trained, and which travel."""
    if s.model.lora_train == "B" and s.model.lora_travels == "A":
        mend = "Set one of them to both"
        raise InputError("lora-travels", "A", 'with lora-train = "B" nothing that is trained would travel', mend)
    parts = s.local.update_share != 1
    if parts and s.model.tuned != "lora":
        problem = f"it is a share of LoRA's rows and columns, and tuned = {_toml(s.model.tuned)} has none"
        raise InputError("update-share", s.local.update_share, problem, 'Set it to 1, or tuned to "lora"')
    if (parts or s.model.lora_train == "B") and not s.local.restart_moments:
        problem = "moments of what is updated in one round do not fit the next one's"
        raise InputError("restart-moments", False, problem, "Set it to true, update-share to 1 and lora-train to both")
    if s.selection.estimator and s.model.travelling_matrix:
        key = "lora-train" if s.model.lora_train == "B" else "lora-travels"
        problem = f"ratio = {_toml(s.selection.estimator)} needs second derivatives in both matrices"
        raise InputError(key, s.model.travelling_matrix, problem, "Set it to both, or give ratio a number")
    if s.local.share_estimator and s.model.lora_train == "B":
        problem = f"update-share = {_toml(s.local.update_share)} needs second derivatives in both matrices"
        raise InputError("lora-train", "B", problem, "Set it to both, or give update-share a number")


def _check_curriculum(s: Settings) -> None:
    """A curriculum comes to an end within the rounds, and nothing counts on a K_i that stays."""
    pacing, own = s.pacing, s.curriculum
    if own.curriculum == "none":
        return
    if s.federation.rounds and not pacing.is_whole_in(s.federation.rounds):
        most = (s.federation.rounds - 1) / s.federation.rounds
        problem = f"with rounds = {s.federation.rounds} no round would see all examples"
        mend = f"Set it to {math.floor(100 * most) / 100:g} or less" if most else "Set curriculum-start to 1"
        raise InputError("curriculum-full", own.curriculum_full, problem, f"{mend}, or raise rounds")
    if s.server.step_normalised:
        problem = f"curriculum = {_toml(own.curriculum)} changes the number of steps from round to round"
        raise InputError("step-normalised", True, problem, "Set one of them to its default")


def _check_partition(s: Settings) -> None:
    """A column of the data is named exactly where it says whose a row is, a data set where it is common to all."""
    for key, value in (("dataset", s.data.dataset), ("validation", s.data.validation)):
        if s.federation.own_data and value not in ("stdlib-docs", ""):
            problem = 'with partition = "own" each node names its own'
            raise InputError(key, value, problem, "Leave it out; test may name a common test set on the server")
    column, by_column = s.data.partition_column, s.federation.partition == "column"
    if by_column and not column:
        raise InputError("partition-column", column, 'partition = "column" needs one', "Name a column of the data")
    if column and not by_column:
        problem = f"partition = {_toml(s.federation.partition)} makes clients without it"
        raise InputError("partition-column", column, problem, 'Set partition to "column", or leave this empty')


def _check_score(s: Settings) -> None:
    """A score by the loss is of the same classes on all nodes; each node knows its own alone, where nothing names them."""
    by_loss = s.selection.layers == "auto" and s.selection.score == "perturbation"
    if by_loss and s.federation.own_data and not s.data.named_labels and not s.data.task:
        problem = (
            'score = "perturbation" takes all classes beforehand, and with partition = "own" a node knows its own alone'
        )
        raise InputError("labels", s.data.labels, problem, 'Name them, or a task; or set score to "similarity"')


def _check_variant(s: Settings) -> None:
    """The released arithmetic is a whole: device and server side, and nothing of the parts beside it."""
    if s.server.variant == "fedpeptao":
        return
    parts: dict[str, tuple[Scalar, Scalar]] = {
        "drift-correction": (s.server.drift_correction, "none"),
        "server-optimizer": (s.server.server_optimizer, "none"),
        "step-normalised": (s.server.step_normalised, False),
        "device-optimizer": (s.local.device_optimizer, "adam"),
        "device-second-moment": (s.local.device_second_moment, "local"),
        "restart-moments": (s.local.restart_moments, False),
        "proximal": (s.local.proximal, 0.0),
    }
    wrong = [key for key, (value, wanted) in parts.items() if value != wanted]
    if wrong:
        mend = "Set " + ", ".join(f"{key} = {_toml(wanted)}" for key, (_, wanted) in parts.items() if key in wrong)
        problem = f"it is a correction and a server update of its own, which {wrong[0]} = {_toml(parts[wrong[0]][0])} excludes"
        raise InputError("variant", s.server.variant, problem, mend)


def _check_estimator(s: Settings) -> None:
    """An estimate of the ratio needs layers to choose and rounds to warm up in; any estimate second derivatives in float32."""
    if s.selection.estimator:
        if s.selection.layers != "auto":
            problem = f"there is nothing to estimate with layers = {_toml(s.selection.layers)}"
            raise InputError("ratio", s.selection.ratio, problem, "Set layers to auto, or give ratio a number")
        if s.selection.warmup_rounds >= s.federation.rounds:
            problem = f"with rounds = {s.federation.rounds} no round is left after the selection"
            raise InputError("warmup-rounds", s.selection.warmup_rounds, problem, "Lower it, or raise rounds")
    for estimated, estimator in (("ratio", s.selection.estimator), ("update-share", s.local.share_estimator)):
        for key, value, exact in (
            ("dtype", s.model.dtype, "float32"),
            ("autocast", s.model.autocast, "none"),
            ("quantisation", s.model.quantisation, "none"),
        ):
            if estimator and value != exact:
                problem = f"{estimated} = {_toml(estimator)} takes second derivatives, which need float32"
                raise InputError(key, value, problem, f"Set {key} to {exact}, or give {estimated} a number")


def _toml(value: Scalar) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return f'"{value}"' if isinstance(value, str) else f"{value:g}"
