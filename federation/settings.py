"""The flat run-config, parsed once at the edge into frozen dataclasses.

pyproject.toml holds each key's default and its explanation; the fields below hold its type and what values it takes. Inside the
application only these dataclasses travel, so a wrong key, type or value is found before anything starts.
"""

from __future__ import annotations

import difflib
import math
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from data.endings import ENDINGS, TASKS
from federation.pacing import Pacing
from fedpeptao.errors import InputError
from models.technique_names import BY_LAYER, PROMPTS, TECHNIQUES

Scalar = str | int | float | bool
OWN = "own"
"""The partition under which each client's examples are its node's own file."""
Flat = Mapping[str, Scalar]
ESTIMATORS = ("eigengap", "plateau")
"""Of the ratio (section 2.2 of docs/ALGORITHMS.md)."""
PRECISIONS = ("float32", "float16", "int8")
"""Of what travels (section 2.8)."""


def _setting(expected: str, accepts: Callable[[Any], bool]) -> Any:
    """A dataclass field without default that knows what it takes, in words and as a predicate."""
    return field(metadata={"expected": expected, "accepts": accepts})


def _whole(minimum: int) -> Any:
    return _setting(f"a whole number of at least {minimum}", lambda v: v >= minimum)


def _above(bound: float) -> Any:
    return _setting(f"a number above {bound:g}", lambda v: v > bound)


def _at_least(bound: float) -> Any:
    return _setting(f"a number of at least {bound:g}", lambda v: v >= bound)


def _within(low: float, high: float, expected: str) -> Any:
    return _setting(expected, lambda v: low <= v <= high)


def _choice(*options: str) -> Any:
    return _setting("one of " + ", ".join(options), lambda v: v in options)


def _text() -> Any:
    return _setting("a text", lambda v: True)


def _name() -> Any:
    return _setting("a text that is not empty", lambda v: bool(v.strip()))


def _path() -> Any:
    return _setting("an absolute path, or nothing", lambda v: v == "" or Path(v).is_absolute())


def _paths() -> Any:
    def accepts(value: str) -> bool:
        return all(Path(part).is_absolute() for part in _parts(value))

    return _setting("absolute paths with commas between them, or nothing", accepts)


def _parts(listed: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in listed.split(",") if part.strip())


def _place() -> Any:
    """A name, or an absolute path: what looks like a relative path is neither."""

    def accepts(value: str) -> bool:
        looks_like_path = value.startswith((".", "~")) or value.endswith(ENDINGS)
        return bool(value.strip()) and (Path(value).is_absolute() or not looks_like_path)

    return _setting("a name or an absolute path, and not empty", accepts)


def _task() -> Any:
    """A name, an absolute path of a .yaml file, or nothing."""

    def accepts(value: str) -> bool:
        looks_like_path = value.startswith((".", "~")) or value.endswith(TASKS) or "/" in value or "\\" in value
        return Path(value).is_absolute() or not looks_like_path

    return _setting("the name of a task, the absolute path of a .yaml file, or nothing", accepts)


def _flag() -> Any:
    return _setting("true or false", lambda v: True)


def _precision_or_nothing() -> Any:
    return _setting(f"one of {', '.join(PRECISIONS)}, or nothing", lambda v: v in ("", *PRECISIONS))


def _share() -> Any:
    return _setting("a number above 0 and at most 1", lambda v: 0 < v <= 1)


def _ratio() -> Any:
    def accepts(value: str | float) -> bool:
        return value in ESTIMATORS if isinstance(value, str) else 0 < value <= 1

    return _setting(f"a number above 0 and at most 1, or one of {', '.join(ESTIMATORS)}", accepts)


def _layers() -> Any:
    def accepts(value: str) -> bool:
        return value in ("auto", "all") or all(re.fullmatch("[0-9]+", part.strip()) for part in value.split(","))

    return _setting('auto, all, or a list of layers such as "3,4,5"', accepts)


@dataclass(frozen=True)
class ModelSettings:
    """The frozen backbone, its head and what is tuned in it."""

    model: str = _place()
    dtype: str = _choice("float32", "bfloat16", "float16")
    device: str = _name()
    backbone_dropout: float = _setting("a number from 0 to below 1", lambda v: 0 <= v < 1)
    autocast: str = _choice("none", "bfloat16", "float16")
    quantisation: str = _choice("none", "int8", "int4")
    gradient_checkpointing: bool = _flag()
    unpadding: bool = _flag()
    head: str = _choice("auto", "linear", "model", "masked-lm", "causal-lm")
    label_loss: str = _choice("vocabulary", "label-words")
    tuned: str = _choice(*TECHNIQUES)
    prompt_tokens: int = _whole(1)
    prompt_init: str = _choice("normal", "vocabulary")
    prompt_init_std: float = _at_least(0)
    prompt_layer: int = _setting("a layer, or -1 for the middle one", lambda v: v >= -1)
    prompt_sources: str = _paths()
    bottleneck: int = _whole(1)
    lora_rank: int = _whole(1)
    lora_alpha: float = _above(0)
    lora_targets: str = _text()
    lora_train: str = _choice("both", "B")
    lora_travels: str = _choice("both", "A")
    hidden_cache_mb: int = _whole(0)
    hidden_cache_disk_mb: int = _whole(0)
    hidden_cache_dtype: str = _choice("float32", "bfloat16", "float16")

    @property
    def positions_taken(self) -> int:
        """Positions that texts cannot have."""
        return self.prompt_tokens if self.tuned in PROMPTS else 0

    @property
    def source_folders(self) -> tuple[str, ...]:
        """The folders in `prompt-sources`, in their order."""
        return _parts(self.prompt_sources)

    @property
    def target_names(self) -> tuple[str, ...]:
        """The names in `lora-targets`."""
        return _parts(self.lora_targets)

    @property
    def travelling_matrix(self) -> str:
        """Which of LoRA's two matrices travels alone, "A" or "B"; "" where both do, or nothing is tuned by LoRA."""
        if self.tuned != "lora":
            return ""
        return "B" if self.lora_train == "B" else self.lora_travels.removeprefix("both")


@dataclass(frozen=True)
class DataSettings:
    """Where texts and labels come from."""

    task: str = _task()
    dataset: str = _place()
    validation: str = _path()
    test: str = _path()
    text_column: str = _name()
    text_pair_column: str = _text()
    label_column: str = _name()
    partition_column: str = _text()
    labels: str = _text()
    validation_fraction: float = _setting("a number between 0 and 1", lambda v: 0 < v < 1)
    test_fraction: float = _setting("a number between 0 and 1", lambda v: 0 < v < 1)
    train_examples: int = _whole(0)
    test_examples: int = _whole(0)
    max_length: int = _whole(0)

    @property
    def named_labels(self) -> list[str]:
        """The classes that are named by hand; [] where they follow from the task or the data."""
        return [label.strip() for label in self.labels.split(",")] if self.labels else []


@dataclass(frozen=True)
class FederationSettings:
    """Who takes part, and how the data lie on them."""

    clients: int = _whole(1)
    partition: str = _choice("label-skew", "iid", "column", OWN)
    alpha: float = _above(0)
    clients_per_round: int = _whole(1)
    over_sampling: int = _whole(0)
    min_clients: int = _whole(0)
    quorum: int = _whole(1)
    quorum_wait_s: float = _at_least(0)
    norm_limit: float = _setting("0 or a number above 1", lambda v: v == 0 or v > 1)
    strikes: int = _whole(0)
    message_limit_mb: int = _whole(0)
    rounds: int = _whole(0)
    seed: int = _whole(0)

    @property
    def own_data(self) -> bool:
        """Whether each node has its own, and no data set is common to all."""
        return self.partition == OWN


@dataclass(frozen=True)
class SelectionSettings:
    """Which layers travel (section 2.1, 2.2), and what the others do (2.3)."""

    layers: str = _layers()
    ratio: float | str = _ratio()
    warmup_rounds: int = _whole(1)
    curvature_steps: int = _whole(4)
    curvature_probes: int = _whole(1)
    curvature_examples: int = _whole(1)
    score: str = _choice("similarity", "perturbation")
    score_order: str = _choice("highest", "lowest", "random")
    score_batches: int = _whole(1)
    perturbation: float = _above(0)
    perturbation_examples: int = _whole(1)
    unselected_prompts: str = _choice("local", "none")

    @property
    def estimator(self) -> str | None:
        """The estimator of the ratio; None where it is a number, or not needed."""
        return self.ratio if isinstance(self.ratio, str) else None


@dataclass(frozen=True)
class LocalSettings:
    """A client's training in one round (section 2.4; update-share and fisher-*: section 3)."""

    local_epochs: int = _whole(1)
    batch_size: int = _whole(1)
    learning_rate: float = _above(0)
    own_learning_rate: float = _at_least(0)
    device_optimizer: str = _choice("adam", "sgd")
    device_momentum: float = _setting("a number from 0 to below 1", lambda v: 0 <= v < 1)
    device_second_moment: str = _choice("local", "shared")
    restart_moments: bool = _flag()
    proximal: float = _at_least(0)
    weight_decay: float = _at_least(0)
    clip_norm: float = _above(0)
    clients_together: int = _whole(1)
    final_local_epochs: int = _whole(0)
    update_share: float | str = _ratio()
    fisher_momentum: float = _setting("a number from 0 to below 1", lambda v: 0 <= v < 1)
    fisher_batches: int = _whole(1)

    @property
    def share_estimator(self) -> str | None:
        """The estimator of each client's own share of what it updates; None where one number is for all."""
        return self.update_share if isinstance(self.update_share, str) else None

    def steps(self, examples: int) -> int:
        """K_i of a client with so many examples, all of which it sees: E ceil(n_i / batch size)."""
        return self.local_epochs * -(-examples // self.batch_size)


@dataclass(frozen=True)
class CurriculumSettings:
    """Which of its examples a client trains on, round by round (section 3)."""

    curriculum: str = _choice("none", "linear", "sqrt", "exp")
    curriculum_order: str = _choice("easy", "hard", "short", "random")
    curriculum_start: float = _share()
    curriculum_full: float = _share()


@dataclass(frozen=True)
class PersonalSettings:
    """What makes a client's model its own, beside the prompts that stay with it."""

    label_prior: str = _choice("auto", "none", "client")
    personal_head: bool = _flag()
    ditto: float = _at_least(0)


@dataclass(frozen=True)
class ServerSettings:
    """The server's update (section 2.5), and the precision of what travels."""

    variant: str = _choice("fedpeptao", "released", "released-aliased")
    drift_correction: str = _choice("none", "server", "device")
    max_lost_share: float = _within(0, 1, "a number from 0 to 1")
    step_normalised: bool = _flag()
    server_optimizer: str = _choice("momentum", "heavy-ball", "adam", "yogi", "adagrad", "none")
    server_momentum: float = _setting("a number from 0 to below 1", lambda v: 0 <= v < 1)
    server_second_momentum: float = _setting("a number from 0 to below 1", lambda v: 0 <= v < 1)
    server_adaptivity: float = _above(0)
    server_learning_rate: float = _above(0)
    precision: str = _choice(*PRECISIONS)
    model_precision: str = _precision_or_nothing()
    control_precision: str = _precision_or_nothing()
    update_precision: str = _precision_or_nothing()
    error_feedback: bool = _flag()

    def precision_of(self, what: str) -> str:
        """Of the model (x), the control variate (c) or the update (Delta_i)."""
        own: str = getattr(self, f"{what}_precision")
        return own or self.precision

    @property
    def feeds_back(self) -> bool:
        """Whether clients keep what rounding took from an update: int8 takes enough for that to matter."""
        return self.error_feedback and self.precision_of("update") == "int8"


@dataclass(frozen=True)
class RunSettings:
    """Deadlines, cadences, threads, room for client states, and where the run folder goes."""

    round_timeout_s: float = _above(0)
    checkpoints: int = _whole(1)
    resume: str = _path()
    test_every: int = _whole(0)
    evaluate_every: int = _whole(0)
    metric: str = _choice("auto", "accuracy", "matthews", "f1", "accuracy-and-f1")
    evaluation_batch_size: int = _whole(1)
    threads: int = _whole(1)
    state_disk_mb: int = _whole(0)
    runs_dir: str = _path()
    run_name: str = _setting("a folder name without slashes", lambda v: "/" not in v and v not in (".", ".."))


@dataclass(frozen=True)
class Settings:
    """Everything a run is told, by who needs it."""

    model: ModelSettings
    data: DataSettings
    federation: FederationSettings
    selection: SelectionSettings
    local: LocalSettings
    curriculum: CurriculumSettings
    personal: PersonalSettings
    server: ServerSettings
    run: RunSettings

    @property
    def pacing(self) -> Pacing:
        """How many of its batches a client sees in a round."""
        own = self.curriculum
        return Pacing(own.curriculum, own.curriculum_start, own.curriculum_full, self.federation.rounds)

    def steps_in(self, server_round: int, examples: int) -> int:
        """K_i in a round, of a client with so many examples."""
        return self.pacing.steps(self.local.steps(examples), self.local.local_epochs, server_round)

    def flat(self) -> dict[str, Scalar]:
        """As a run-config: kebab-case keys, in the order of pyproject.toml's groups."""
        groups = (getattr(self, group.name) for group in fields(self))
        return {_key(f.name): getattr(group, f.name) for group in groups for f in fields(group)}


_GROUPS: dict[str, type] = {
    "model": ModelSettings,
    "data": DataSettings,
    "federation": FederationSettings,
    "selection": SelectionSettings,
    "local": LocalSettings,
    "curriculum": CurriculumSettings,
    "personal": PersonalSettings,
    "server": ServerSettings,
    "run": RunSettings,
}
_TYPES: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (float,),
    "str": (str,),
    "bool": (bool,),
    "float | str": (float, str),
}
Group = TypeVar("Group")


def parse(flat: Flat) -> Settings:
    """Settings from a complete flat run-config.

    Raises:
        InputError: an unknown or missing key, a value of the wrong type or out of range, or values that contradict each other.
    """
    known = [_key(f.name) for group in _GROUPS.values() for f in fields(group)]
    for key, value in flat.items():
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            mend = f"Did you mean {close[0]}" if close else "pyproject.toml lists every setting"
            raise InputError(key, value, "there is no such setting", mend)
    for key in known:
        if key not in flat:
            raise InputError(key, None, "the setting is missing", "Give it a value: pyproject.toml lists every default")
    settings = Settings(**{name: _parse_group(group, flat) for name, group in _GROUPS.items()})
    _check_together(settings)
    return settings


def defaults() -> dict[str, Scalar]:
    """The run-config of pyproject.toml, the one place where defaults stand."""
    text = (Path(__file__).resolve().parent.parent / "pyproject.toml").read_text(encoding="utf8")
    config: dict[str, Scalar] = tomllib.loads(text)["tool"]["flwr"]["app"]["config"]
    return config


def layer_list(layers: str) -> tuple[int, ...]:
    """The layers named by hand in `layers = "3,4,5"`, ascending and without repeats."""
    return tuple(sorted({int(part) for part in layers.split(",")}))


def _key(name: str) -> str:
    return name.replace("_", "-")


def _parse_group(group: type[Group], flat: Flat) -> Group:
    return group(**{f.name: _parse_value(f, flat[_key(f.name)]) for f in fields(group)})  # type: ignore[arg-type]


def _parse_value(f: Any, value: Scalar) -> Scalar:
    wanted = _TYPES[f.type]
    if float in wanted and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if wanted == (str,) and f.name in ("layers", "labels") and isinstance(value, int) and not isinstance(value, bool):
        value = str(value)  # layers=3 without quotes reaches us as a number
    finite = not isinstance(value, float) or math.isfinite(value)
    if type(value) not in wanted or not finite or not f.metadata["accepts"](value):
        expected: str = f.metadata["expected"]
        raise InputError(
            _key(f.name), value, f"it has to be {expected}", "Change it in --run-config or in your TOML file"
        )
    return value


def _check_together(s: Settings) -> None:
    """Values that are fine alone and contradict each other."""
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
