"""The settings, by who needs them: name, type and what values each takes.

pyproject.toml holds each one's default and its explanation.
"""

from __future__ import annotations

from dataclasses import dataclass

from federation import setting_kinds as kinds
from models.technique_names import PROMPTS, TECHNIQUES

OWN = "own"
"""The partition under which each client's examples are its node's own file."""


@dataclass(frozen=True)
class ModelSettings:
    """The frozen backbone, its head and what is tuned in it."""

    model: str = kinds.place()
    dtype: str = kinds.choice("float32", "bfloat16", "float16")
    device: str = kinds.name()
    backbone_dropout: float = kinds.setting("a number from 0 to below 1", lambda v: 0 <= v < 1)
    autocast: str = kinds.choice("none", "bfloat16", "float16")
    quantisation: str = kinds.choice("none", "int8", "int4")
    gradient_checkpointing: bool = kinds.flag()
    unpadding: bool = kinds.flag()
    head: str = kinds.choice("auto", "linear", "model", "masked-lm", "causal-lm")
    label_loss: str = kinds.choice("vocabulary", "label-words")
    tuned: str = kinds.choice(*TECHNIQUES)
    prompt_tokens: int = kinds.whole(1)
    prompt_init: str = kinds.choice("normal", "vocabulary")
    prompt_init_std: float = kinds.at_least(0)
    prompt_layer: int = kinds.setting("a layer, or -1 for the middle one", lambda v: v >= -1)
    prompt_sources: str = kinds.paths()
    bottleneck: int = kinds.whole(1)
    lora_rank: int = kinds.whole(1)
    lora_alpha: float = kinds.above(0)
    lora_targets: str = kinds.text()
    lora_train: str = kinds.choice("both", "B")
    lora_travels: str = kinds.choice("both", "A")
    hidden_cache_mb: int = kinds.whole(0)
    hidden_cache_disk_mb: int = kinds.whole(0)
    hidden_cache_dtype: str = kinds.choice("float32", "bfloat16", "float16")

    @property
    def positions_taken(self) -> int:
        """Positions that texts cannot have."""
        return self.prompt_tokens if self.tuned in PROMPTS else 0

    @property
    def source_folders(self) -> tuple[str, ...]:
        """The folders in `prompt-sources`, in their order."""
        return kinds.parts(self.prompt_sources)

    @property
    def target_names(self) -> tuple[str, ...]:
        """The names in `lora-targets`."""
        return kinds.parts(self.lora_targets)

    @property
    def travelling_matrix(self) -> str:
        """Which of LoRA's two matrices travels alone, "A" or "B"; "" where both do, or nothing is tuned by LoRA."""
        if self.tuned != "lora":
            return ""
        return "B" if self.lora_train == "B" else self.lora_travels.removeprefix("both")


@dataclass(frozen=True)
class DataSettings:
    """Where texts and labels come from."""

    task: str = kinds.task()
    dataset: str = kinds.place()
    validation: str = kinds.path()
    test: str = kinds.path()
    text_column: str = kinds.name()
    text_pair_column: str = kinds.text()
    label_column: str = kinds.name()
    partition_column: str = kinds.text()
    labels: str = kinds.names()
    validation_fraction: float = kinds.setting("a number between 0 and 1", lambda v: 0 < v < 1)
    test_fraction: float = kinds.setting("a number between 0 and 1", lambda v: 0 < v < 1)
    train_examples: int = kinds.whole(0)
    test_examples: int = kinds.whole(0)
    max_length: int = kinds.whole(0)

    @property
    def named_labels(self) -> list[str]:
        """The classes that are named by hand; [] where they follow from the task or the data."""
        return [label.strip() for label in self.labels.split(",")] if self.labels else []


@dataclass(frozen=True)
class FederationSettings:
    """Who takes part, and how the data lie on them."""

    clients: int = kinds.whole(1)
    partition: str = kinds.choice("label-skew", "iid", "column", OWN)
    alpha: float = kinds.above(0)
    clients_per_round: int = kinds.whole(1)
    over_sampling: int = kinds.whole(0)
    min_clients: int = kinds.whole(0)
    quorum: int = kinds.whole(1)
    quorum_wait_s: float = kinds.at_least(0)
    norm_limit: float = kinds.setting("0 or a number above 1", lambda v: v == 0 or v > 1)
    strikes: int = kinds.whole(0)
    message_limit_mb: int = kinds.whole(0)
    rounds: int = kinds.whole(0)
    seed: int = kinds.whole(0)

    @property
    def own_data(self) -> bool:
        """Whether each node has its own, and no data set is common to all."""
        return self.partition == OWN


@dataclass(frozen=True)
class SelectionSettings:
    """Which layers travel (section 2.1, 2.2), and what the others do (2.3)."""

    layers: str = kinds.layers()
    ratio: float | str = kinds.ratio()
    warmup_rounds: int = kinds.whole(1)
    curvature_steps: int = kinds.whole(4)
    curvature_probes: int = kinds.whole(1)
    curvature_examples: int = kinds.whole(1)
    score: str = kinds.choice("similarity", "perturbation")
    score_order: str = kinds.choice("highest", "lowest", "random")
    score_batches: int = kinds.whole(1)
    perturbation: float = kinds.above(0)
    perturbation_examples: int = kinds.whole(1)
    unselected_prompts: str = kinds.choice("local", "none")

    @property
    def estimator(self) -> str | None:
        """The estimator of the ratio; None where it is a number, or not needed."""
        return self.ratio if isinstance(self.ratio, str) else None


@dataclass(frozen=True)
class LocalSettings:
    """A client's training in one round (section 2.4; update-share and fisher-*: section 3)."""

    local_epochs: int = kinds.whole(1)
    batch_size: int = kinds.whole(1)
    learning_rate: float = kinds.above(0)
    own_learning_rate: float = kinds.at_least(0)
    device_optimizer: str = kinds.choice("adam", "sgd")
    device_momentum: float = kinds.setting("a number from 0 to below 1", lambda v: 0 <= v < 1)
    device_second_moment: str = kinds.choice("local", "shared")
    restart_moments: bool = kinds.flag()
    proximal: float = kinds.at_least(0)
    weight_decay: float = kinds.at_least(0)
    clip_norm: float = kinds.above(0)
    clients_together: int = kinds.whole(1)
    final_local_epochs: int = kinds.whole(0)
    update_share: float | str = kinds.ratio()
    fisher_momentum: float = kinds.setting("a number from 0 to below 1", lambda v: 0 <= v < 1)
    fisher_batches: int = kinds.whole(1)

    @property
    def share_estimator(self) -> str | None:
        """The estimator of each client's own share of what it updates; None where one number is for all."""
        return self.update_share if isinstance(self.update_share, str) else None

    def steps(self, examples: int) -> int:
        """K_i of a client with so many examples, all of which it sees: E ceil(n_i / batch size)."""
        return self.local_epochs * -(-examples // self.batch_size)

    def step_sum(self, steps: int) -> float:
        """a_i, by which Delta_i/eta is a mean gradient: K_i, or sum over k <= K_i of (1 - beta^k)/(1 - beta) by a running sum."""
        if beta := self.device_momentum:
            return (steps - beta * (1 - beta**steps) / (1 - beta)) / (1 - beta)
        return steps


@dataclass(frozen=True)
class CurriculumSettings:
    """Which of its examples a client trains on, round by round (section 3)."""

    curriculum: str = kinds.choice("none", "linear", "sqrt", "exp")
    curriculum_order: str = kinds.choice("easy", "hard", "short", "random")
    curriculum_start: float = kinds.share()
    curriculum_full: float = kinds.share()


@dataclass(frozen=True)
class PersonalSettings:
    """What makes a client's model its own, beside the prompts that stay with it."""

    label_prior: str = kinds.choice("auto", "none", "client")
    personal_head: bool = kinds.flag()
    ditto: float = kinds.at_least(0)


@dataclass(frozen=True)
class ServerSettings:
    """The server's update (section 2.5), and the precision of what travels."""

    variant: str = kinds.choice("fedpeptao", "released", "released-aliased")
    drift_correction: str = kinds.choice("none", "server", "device")
    max_lost_share: float = kinds.within(0, 1, "a number from 0 to 1")
    step_normalised: bool = kinds.flag()
    server_optimizer: str = kinds.choice("momentum", "heavy-ball", "adam", "yogi", "adagrad", "none")
    server_momentum: float = kinds.setting("a number from 0 to below 1", lambda v: 0 <= v < 1)
    server_second_momentum: float = kinds.setting("a number from 0 to below 1", lambda v: 0 <= v < 1)
    server_adaptivity: float = kinds.above(0)
    server_learning_rate: float = kinds.above(0)
    server_ema: float = kinds.setting("a number from 0 to below 1", lambda v: 0 <= v < 1)
    precision: str = kinds.choice(*kinds.PRECISIONS)
    model_precision: str = kinds.precision_or_nothing()
    control_precision: str = kinds.precision_or_nothing()
    update_precision: str = kinds.precision_or_nothing()
    error_feedback: bool = kinds.flag()

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

    round_timeout_s: float = kinds.above(0)
    checkpoints: int = kinds.whole(1)
    resume: str = kinds.path()
    test_every: int = kinds.whole(0)
    evaluate_every: int = kinds.whole(0)
    metric: str = kinds.choice("auto", "accuracy", "matthews", "f1", "accuracy-and-f1")
    evaluation_batch_size: int = kinds.whole(1)
    threads: int = kinds.whole(1)
    state_disk_mb: int = kinds.whole(0)
    runs_dir: str = kinds.path()
    run_name: str = kinds.setting("a folder name without slashes", lambda v: "/" not in v and v not in (".", ".."))
