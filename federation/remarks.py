"""What is odd about settings, and yet allowed: values that have no effect beside the others, and one that is likely a slip."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from federation.settings import Settings, defaults
from models.technique_names import BOTTLENECKS, DRAWN, PROMPTS

Inert = tuple[tuple[str, ...], Callable[[Settings], bool], str]

_INERT: tuple[Inert, ...] = (
    (("warmup-rounds",), lambda s: s.selection.estimator is None, "ratio is a number"),
    (
        ("curvature-steps", "curvature-probes", "curvature-examples"),
        lambda s: s.selection.estimator is None and s.local.share_estimator is None,
        "ratio and update-share are numbers",
    ),
    (
        ("ratio", "score", "score-order", "score-batches", "perturbation", "perturbation-examples"),
        lambda s: s.selection.layers != "auto",
        "layers are named, not chosen by score",
    ),
    (
        ("perturbation", "perturbation-examples"),
        lambda s: s.selection.layers == "auto" and s.selection.score != "perturbation",
        'score is not "perturbation"',
    ),
    (
        ("score-batches",),
        lambda s: s.selection.layers == "auto" and s.selection.score != "similarity",
        'score is not "similarity"',
    ),
    (
        ("curriculum-order", "curriculum-start", "curriculum-full"),
        lambda s: s.curriculum.curriculum == "none",
        "there is no curriculum",
    ),
    (("fisher-momentum", "fisher-batches"), lambda s: s.local.update_share == 1, "all parameters are updated"),
    (
        ("update-share",),
        lambda s: s.selection.layers == "all" or s.selection.unselected_prompts == "none",
        "nothing is tuned outside the selected layers",
    ),
    (("max-lost-share",), lambda s: s.server.drift_correction != "device", 'drift-correction is not "device"'),
    (
        ("server-momentum",),
        lambda s: s.server.server_optimizer == "none" and s.server.variant == "fedpeptao",
        'server-optimizer is "none"',
    ),
    (("server-optimizer", "server-momentum", "server-ema"), lambda s: s.federation.rounds == 0, "there are no rounds"),
    (
        ("server-second-momentum",),
        lambda s: s.server.server_optimizer not in ("adam", "yogi"),
        "server-optimizer is neither adam nor yogi",
    ),
    (
        ("server-adaptivity",),
        lambda s: s.server.server_optimizer not in ("adam", "yogi", "adagrad"),
        "server-optimizer is not an adaptive one",
    ),
    (("control-precision",), lambda s: s.server.drift_correction != "device", 'drift-correction is not "device"'),
    (("error-feedback",), lambda s: s.server.precision_of("update") != "int8", "updates do not travel in int8"),
    (("label-loss",), lambda s: s.model.head in ("linear", "model"), "the head has no label words"),
    (("alpha",), lambda s: s.federation.partition != "label-skew", 'partition is not "label-skew"'),
    (
        ("prompt-init-std",),
        lambda s: s.model.tuned == "lora" or (s.model.tuned in DRAWN and s.model.prompt_init == "vocabulary"),
        "nothing that is tuned is drawn with it",
    ),
    (("prompt-init",), lambda s: s.model.tuned not in DRAWN, "what is tuned is no prompt of its own"),
    (("prompt-tokens",), lambda s: s.model.tuned not in PROMPTS, "there is no prompt"),
    (("prompt-layer",), lambda s: s.model.tuned != "late-prompts", 'tuned is not "late-prompts"'),
    (("prompt-sources",), lambda s: s.model.tuned != "mixed-prompts", 'tuned is not "mixed-prompts"'),
    (("bottleneck",), lambda s: s.model.tuned not in BOTTLENECKS, "what is tuned has none"),
    (
        ("lora-rank", "lora-alpha", "lora-targets", "lora-train", "lora-travels"),
        lambda s: s.model.tuned != "lora",
        'tuned is not "lora"',
    ),
    (("weight-decay",), lambda s: s.local.device_optimizer == "sgd", 'device-optimizer is "sgd"'),
)
_ADAPTIVE_LIMIT = 0.5


def without_effect(settings: Settings) -> set[str]:
    """The keys that could have any other value."""
    return {key for keys, inert, _ in _INERT if inert(settings) for key in keys}


def remarks(settings: Settings) -> list[str]:
    """One line for each oddity, for people; none where all is usual."""
    flat, usual = settings.flat(), defaults()
    lines = [
        f"{key} = {flat[key]!r} has no effect: {why}"
        for keys, inert, why in _INERT
        if inert(settings)
        for key in keys
        if flat[key] != usual[key]
    ]
    server = settings.server
    if server.server_optimizer in ("adam", "yogi", "adagrad") and server.server_learning_rate > _ADAPTIVE_LIMIT:
        lines.append(
            f"server-learning-rate = {server.server_learning_rate:g} with server-optimizer = {server.server_optimizer!r} "
            "moves every parameter by about that much a round: 0.001 to 0.1 is usual"
        )
    rounds, window = settings.federation.rounds, 1 / (1 - server.server_ema)
    if 0 < rounds < round(window, 6):
        lines.append(
            f"server-ema = {server.server_ema:g} averages about the last {window:.0f} updates, and there are {rounds} rounds: "
            "the first models of the run weigh nearly as much as its last"
        )
    if not settings.federation.rounds and not settings.local.final_local_epochs:
        lines.append("rounds = 0 and final-local-epochs = 0: nothing is trained, the model is evaluated as it begins")
    return lines


def remarks_on_resuming(settings: Settings, rounds: int, done: int) -> list[str]:
    """The same of a run that goes on after round `done`, and was to have so many rounds until now."""
    now, now_rounds = settings.pacing, settings.federation.rounds
    was = replace(now, rounds=rounds)
    if all(now.share(one) == was.share(one) for one in range(1, done + 2)):
        return []
    return [
        f"rounds = {now_rounds} was {rounds}, and the curriculum's pace is of the rounds: round {done + 1} sees "
        f"{now.share(done + 1):.0%} of each client's batches, after {was.share(done):.0%} in round {done}. "
        f"The run does not end as one that had rounds = {now_rounds} from the start"
    ]
