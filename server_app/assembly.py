"""From what the roll call found to the strategies of a run: that of the warm-up, and that of the selected layers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from federation import resources
from federation.codec import make_codec
from federation.settings import Settings
from models.layout import Layout
from models.prompted import PromptedModel
from server_app.console import traffic_table
from server_app.roll_call import RollCall
from strategies.build import build, build_warm_up
from strategies.client_rows import ClientRows, FileRows
from strategies.fedpeptao import Algorithm
from strategies.roster import Roster
from strategies.selection import travelling_names
from strategies.shell import PromptStrategy

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

    def warm_up(self, layers: int) -> PromptStrategy:
        """Plain averaging on all of so many layers, from the run's initial values."""
        return self._strategy(build_warm_up(), tuple(range(layers)), None, warm_up=True)

    def strategy(self, layers: tuple[int, ...], warm: PromptStrategy | None = None) -> PromptStrategy:
        """The run's algorithm on these layers, from the initial values, or from where the warm-up ended."""
        size = self._layout(layers).size
        codec = make_codec(self.settings.server.precision)

        def rows() -> ClientRows:
            settings = self.settings
            return FileRows(self.folder / ROWS, settings.federation.clients, size, settings.run.checkpoints)

        return self._strategy(build(self.settings, self.found.cohort, codec, rows), layers, warm, warm_up=False)

    def _strategy(
        self, algorithm: Algorithm, layers: tuple[int, ...], warm: PromptStrategy | None, warm_up: bool
    ) -> PromptStrategy:
        settings, layout = self.settings, self._layout(layers)
        values = initial_values(settings, self._model(layers))
        if warm is not None:
            values |= warm.layout.unflatten(warm.state.x)
        x = layout.flatten({name: values[name].to(torch.float64) for name in layout.names})
        roster = Roster(
            run=self.folder.name,
            seed=settings.federation.seed,
            examples={client: reply.examples for client, reply in self.found.replies.items()},
            nodes=self.found.nodes,
            labels=self.labels,
            layers=layers,
            per_round=settings.federation.clients_per_round,
            beyond=settings.federation.over_sampling,
            quorum=settings.federation.quorum,
            steps={client: reply.steps for client, reply in self.found.replies.items()},
            evaluated={client: reply.validation_examples for client, reply in self.found.replies.items()},
            norm_limit=settings.federation.norm_limit,
            strikes=settings.federation.strikes,
            message_mb=settings.federation.message_limit_mb,
            metric=resources.metric(settings),
        )
        return PromptStrategy(
            algorithm,
            algorithm.initial(layout.names, x, None if warm is None else warm.state),
            roster,
            layout,
            make_codec(settings.server.precision),
            share_second_moments=settings.local.device_second_moment == "shared" and not warm_up,
            warm_up=warm_up,
            standing=None if warm is None else warm.standing.anew(),
        )

    def _model(self, layers: tuple[int, ...]) -> PromptedModel:
        return resources.prompted(self.settings, layers, self.labels)

    def _layout(self, layers: tuple[int, ...]) -> Layout:
        layout = self._model(layers).layout
        return layout.select(travelling_names(layout, layers))


def strategy_model(settings: Settings, strategy: PromptStrategy) -> PromptedModel:
    """The model of a strategy's layers."""
    return resources.prompted(settings, strategy.roster.layers, strategy.roster.labels)


def whole_row(settings: Settings, strategy: PromptStrategy) -> Tensor:
    """The shared model, [R] float32: x on the layers that travel, the common initial prompts elsewhere (rule 11)."""
    model = strategy_model(settings, strategy)
    travelling = strategy.layout.unflatten(strategy.state.x.to(torch.float32))
    return model.layout.flatten({**initial_values(settings, model), **travelling})


def initial_values(settings: Settings, model: PromptedModel) -> dict[str, Tensor]:
    """The common initial values by name, float32."""
    row = model.initial(settings.federation.seed, settings.model.prompt_init_std)
    return model.layout.unflatten(row)


def traffic(settings: Settings, strategy: PromptStrategy) -> str:
    """What will travel per client and round, and what stays."""
    model = strategy_model(settings, strategy)
    size = strategy.codec.encode(torch.zeros(1)).itemsize
    layers = strategy.roster.layers
    head = sum(entry.size for entry in model.layout.entries if entry.layer is None)
    here = strategy.layout.size - head
    per_layer = here // len(layers)
    elsewhere = per_layer * (model.backbone.num_layers - len(layers))
    control = strategy.layout.size if strategy.algorithm.downlink(strategy.state) is not None else 0
    rows = [
        (f"prompts of {len(layers)} selected layers, down", here, True),
        (f"prompts of {len(layers)} selected layers, up", here, True),
        ("head, down", head, True),
        ("head, up", head, True),
        ("control variate, down", control, True),
        ("prompts of the other layers, down", elsewhere, False),
        ("prompts of the other layers, up", elsewhere, False),
    ]
    whole = 2 * (here + elsewhere + head) * size
    return traffic_table([(name, n, n * size, travels) for name, n, travels in rows if n], whole)
