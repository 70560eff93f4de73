"""From what the roll call found to the strategies of a run: that of the warm-up, and that of the selected layers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from flwr.app import RecordDict
from torch import Tensor

from federation import resources
from federation.channels import Channel, Channels, make_channels
from federation.limits import size_of
from federation.settings import Settings
from fedpeptao.errors import InputError
from models.layout import Entry
from models.technique_names import PROMPTS
from models.tuned_model import TunedModel
from server_app.console import traffic_table
from server_app.roll_call import RollCall
from strategies.build import build, build_warm_up
from strategies.client_rows import ClientRows, FileRows
from strategies.fedpeptao import Algorithm
from strategies.roster import Roster
from strategies.selection import travelling_names
from strategies.shell import SelectiveStrategy

ROWS = "client_rows.bin"


@dataclass(frozen=True)
class Assembly:
    """What is fixed once the roll call is over.

    Attributes:
        settings: of the run.
        found: by the roll call.
        labels: classes in the order of the head's outputs.
        folder: of the run; the server's rows per client lie there, where the algorithm keeps any.
    """

    settings: Settings
    found: RollCall
    labels: tuple[str, ...]
    folder: Path

    def warm_up(self, layers: int) -> SelectiveStrategy:
        """Plain averaging on all of so many layers, from the run's initial values."""
        return self._strategy(build_warm_up(), tuple(range(layers)), None, warm_up=True)

    def strategy(self, layers: tuple[int, ...], warm: SelectiveStrategy | None = None) -> SelectiveStrategy:
        """The run's algorithm on these layers, from the initial values, or from where the warm-up ended."""
        channels = self._channels(layers)

        def rows() -> ClientRows:
            settings = self.settings
            return FileRows(
                self.folder / ROWS, settings.federation.clients, channels.layout.size, settings.run.checkpoints
            )

        algorithm = build(self.settings, self.found.cohort, channels.control, rows)
        return self._strategy(algorithm, layers, warm, warm_up=False)

    def _strategy(
        self, algorithm: Algorithm, layers: tuple[int, ...], warm: SelectiveStrategy | None, warm_up: bool
    ) -> SelectiveStrategy:
        settings, channels, agreed = self.settings, self._channels(layers), self.found.agreed
        layout = channels.layout
        values = initial_values(settings, self._model(layers))
        if warm is not None:
            values |= warm.layout.unflatten(warm.state.x)
        x = layout.flatten({name: values[name].to(torch.float64) for name in layout.names})
        roster = Roster(
            run=self.folder.name,
            seed=settings.federation.seed,
            examples={client: examples for client, (examples, _) in agreed.items()},
            nodes=self.found.nodes,
            labels=self.labels,
            layers=layers,
            per_round=settings.federation.clients_per_round,
            beyond=settings.federation.over_sampling,
            quorum=settings.federation.quorum,
            steps={client: steps for client, (_, steps) in agreed.items()},
            evaluated={client: reply.validation_examples for client, reply in self.found.replies.items()},
            norm_limit=settings.federation.norm_limit,
            strikes=settings.federation.strikes,
            message_mb=settings.federation.message_limit_mb,
            metric=resources.metric(settings),
            epochs=settings.local.local_epochs,
            pacing=settings.pacing,
        )
        strategy = SelectiveStrategy(
            algorithm,
            algorithm.initial(layout.names, x, None if warm is None else warm.state),
            roster,
            channels,
            share_second_moments=settings.local.device_second_moment == "shared" and not warm_up,
            warm_up=warm_up,
            standing=None if warm is None else warm.standing.anew(),
        )
        check_limit(settings, strategy)
        return strategy

    def _model(self, layers: tuple[int, ...]) -> TunedModel:
        return resources.tuned(self.settings, layers, self.labels)

    def _channels(self, layers: tuple[int, ...]) -> Channels:
        layout = self._model(layers).layout
        settings = self.settings
        head, matrix = not settings.personal.personal_head, settings.model.travelling_matrix
        return make_channels(settings, layout.select(travelling_names(layout, layers, head, matrix)))


def check_limit(settings: Settings, strategy: SelectiveStrategy) -> None:
    """A message limit has room for what will travel, of all clients that a node may be asked for at once.

    Raises:
        InputError: it has not.
    """
    limit, roster = settings.federation.message_limit_mb, strategy.roster
    if not limit or not roster.nodes:
        return
    ask = strategy.train_messages(strategy.state.round + 1)[0].content
    shared = size_of(RecordDict({"shared": ask["shared"]}))
    together = min(roster.per_round + roster.beyond, max(Counter(roster.nodes.values()).values()))
    needed = max(size_of(ask), together * shared) + together * 2**10
    if needed > limit * 2**20:
        mend = f"Set it to {-(-needed // 2**20)} or more, or to 0"
        raise InputError("message-limit-mb", limit, f"messages of this run have up to {needed:,} bytes", mend)


def strategy_model(settings: Settings, strategy: SelectiveStrategy) -> TunedModel:
    """The model of a strategy's layers."""
    return resources.tuned(settings, strategy.roster.layers, strategy.roster.labels)


def whole_row(settings: Settings, strategy: SelectiveStrategy) -> Tensor:
    """The shared model, [R] float32: x or its average on the layers that travel, initial prompts elsewhere (rule 11)."""
    model = strategy_model(settings, strategy)
    travelling = strategy.layout.unflatten(strategy.state.model.to(torch.float32))
    return model.layout.flatten({**initial_values(settings, model), **travelling})


def initial_values(settings: Settings, model: TunedModel) -> dict[str, Tensor]:
    """The common initial values by name, float32."""
    row = model.initial(settings.federation.seed, settings.model.prompt_init_std)
    return model.layout.unflatten(row)


def traffic(settings: Settings, strategy: SelectiveStrategy) -> str:
    """What will travel per client and round, and what stays."""
    model = strategy_model(settings, strategy)
    layers, channels = strategy.roster.layers, strategy.channels
    entries, noun = strategy.layout.entries, "prompts" if settings.model.tuned in PROMPTS else settings.model.tuned
    head = [entry for entry in entries if entry.name.startswith("head.")]
    here = [entry for entry in entries if entry not in head]
    by_layer = [entry for entry in here if entry.layer is not None]
    elsewhere = [entry for entry in by_layer if entry.layer == layers[0]] * (model.backbone.num_layers - len(layers))
    where = f"{noun} of {len(layers)} selected layers" if by_layer else noun
    corrected = strategy.algorithm.downlink(strategy.state) is not None
    control = entries if corrected else ()
    rows: list[tuple[str, Sequence[Entry], Channel, bool]] = [
        (f"{where}, down", here, channels.model, True),
        (f"{where}, up", here, channels.update, True),
        ("head, down", head, channels.model, True),
        ("head, up", head, channels.update, True),
        ("control variate, down", control, channels.control, True),
        (f"{noun} of the other layers, down", elsewhere, channels.model, False),
        (f"{noun} of the other layers, up", elsewhere, channels.update, False),
    ]
    counted = [
        (name, sum(entry.size for entry in group), sum(map(channel.bytes_of, group)), travels)
        for name, group, channel, travels in rows
        if group
    ]
    exact = 4 * sum(entry.size for entry in (*here, *elsewhere, *head))
    return traffic_table(counted, all_layers_bytes=2 * exact)
