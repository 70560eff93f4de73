"""docs/METHODS.md holds: each row of settings builds and runs; the short ones equal the published rule, written out in numpy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from data.batches import check_max_length
from experiments.quadratics import Federation, Quadratics, distance, four_clients, jitter
from federation import resources
from federation.settings import Scalar, Settings, defaults, parse
from fedpeptao.errors import InputError
from fedpeptao.run_config import overrides
from strategies.released import Released

PAGE = Path(__file__).resolve().parents[2] / "docs" / "METHODS.md"
ETA = 0.15
AS_LONG = {"FacebookAI/roberta-large": "random:roberta"}  # 514 positions, of which a text has all but two


def table(name: str) -> list[list[str]]:
    """The cells of the rows between `<!-- name -->` and `<!-- /name -->`."""
    text = PAGE.read_text(encoding="utf8").split(f"<!-- {name} -->")[1].split(f"<!-- /{name} -->")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.strip().splitlines()]
    return rows[2:]


def config(cell: str) -> dict[str, Scalar]:
    return overrides([cell.strip("`")])


METHODS = {row[0]: config(row[2]) for row in table("methods")}


def complete(method: str, **others: Scalar) -> Settings:
    return parse({**defaults(), **METHODS[method], **{key.replace("_", "-"): value for key, value in others.items()}})


# -- every row -------------------------------------------------------------------------------------------------


def test_the_page_has_every_method() -> None:
    assert set(METHODS) == {
        *("FedAvg", "FedProx", "FedAvgM", "FedAdam", "FedYogi", "FedAdagrad", "SCAFFOLD", "FedNova", "FedVARP"),
        *("P-tuning v2 with FedAvg", "MomD", "MomS+AdamD", "FedPepTAO", "FedPepTAO at the published numbers"),
        *("FedPepTAO, corrected on the server", "FedPepTAO with label priors"),
        *("FedPepTAO with shared moments", "released", "released-aliased"),
        *("Prompt Tuning with FedAvg", "FedPrompt", "LPT with FedAvg", "IDPG with FedAvg", "ATTEMPT with FedAvg"),
        *("Adapter with FedAvg", "LoRA with FedAvg", "FFA-LoRA", "FedSA-LoRA", "FibecFed"),
    }


@pytest.mark.parametrize("preset", sorted((PAGE.parents[1] / "methods").glob("*.toml")), ids=lambda path: path.stem)
def test_a_file_of_settings_is_the_pages_row(preset: Path) -> None:
    (row,) = (row for name, row in METHODS.items() if name.lower() == preset.stem)
    assert overrides([str(preset)]) == row
    assert overrides([str(preset), "ratio=0.25 curriculum='none'"]) == {**row, "ratio": 0.25, "curriculum": "none"}


def test_a_row_that_keeps_label_priors_says_so() -> None:
    said = {row[0]: row[3] for row in table("methods")}
    kept = {name for name, given in METHODS.items() if given.get("label-prior") != "none"}
    assert kept == {"FibecFed", "FedPepTAO with label priors"}
    assert all("label" in said[name] for name in kept)


@pytest.mark.parametrize("method", METHODS)
def test_its_settings_run(method: str) -> None:
    """With nothing changed but the clients."""
    problem = four_clients()
    path = Federation(problem, complete(method), per_round=2).run(20)
    assert torch.isfinite(path).all()
    assert distance(path[-1], torch.zeros(2)) > 0.01


def test_released_rows_build_the_released_arithmetic() -> None:
    for method, aliased in (("released", False), ("released-aliased", True)):
        algorithm = Federation(four_clients(), complete(method)).algorithm()
        assert isinstance(algorithm, Released)
        assert (algorithm.aliased, algorithm.eta, algorithm.eta_s) == (aliased, 0.04, 0.05)


@pytest.mark.parametrize("method", [name for name, given in METHODS.items() if "model" in given])
def test_texts_of_a_row_with_a_model_fit_it_beside_the_prompt(method: str) -> None:
    settings = complete(method, model=AS_LONG[str(METHODS[method]["model"])])
    room = resources.backbone(settings).text_positions(settings.model.positions_taken)
    check_max_length(settings.data.max_length, room, 2, "max-length")
    with pytest.raises(InputError, match="room for"):
        check_max_length(settings.data.max_length + 1, room, 2, "max-length")


@pytest.mark.parametrize("row", table("exclusions"), ids=lambda row: row[0])
def test_what_excludes_each_other_is_refused(row: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        parse({**defaults(), **config(row[0])})
    assert caught.value.key == row[1].strip("`")


def test_scaffold_reaches_the_optimum_with_clients_of_unequal_length() -> None:
    problem = four_clients()
    path = Federation(problem, complete("SCAFFOLD", clip_norm=1e9, learning_rate=ETA), per_round=2).run(200)
    assert distance(path[-1], problem.optimum()) < 1e-9
    assert jitter(path) < 1e-10


# -- against the published rules, in numpy -----------------------------------------------------------------------

Vector = np.ndarray
Rule = Callable[[Vector, list[int]], Vector]  # (x, the clients of the round) -> the next x


class World:
    """The same quadratics in numpy, and a device's round of SGD or Adam."""

    def __init__(self, problem: Quadratics) -> None:
        self.A, self.a = problem.curvature.numpy(), problem.centres.numpy()
        self.n, self.K = np.array(problem.examples, float), problem.steps
        self.clients = range(len(self.n))

    def sgd(self, i: int, x: Vector, mu: float = 0.0, correction: Vector | float = 0.0) -> Vector:
        y = x.copy()
        for _ in range(self.K[i]):
            y = y - ETA * (self.A[i] @ (y - self.a[i]) + mu * (y - x) + correction)
        return y

    def adam(self, i: int, x: Vector) -> Vector:
        y, m, v = x.copy(), np.zeros_like(x), np.zeros_like(x)
        for t in range(1, self.K[i] + 1):
            grad = self.A[i] @ (y - self.a[i])
            m, v = 0.9 * m + 0.1 * grad, 0.999 * v + 0.001 * grad**2
            y = y - ETA * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        return y

    def mean(self, asked: list[int], local: Callable[[int], Vector]) -> Vector:
        """n_i-weighted over the round's clients."""
        weighted: Vector = sum(self.n[i] * local(i) for i in asked) / self.n[asked].sum()
        return weighted


def fedavg(world: World, given: dict[str, Scalar]) -> Rule:
    return lambda x, asked: world.mean(asked, lambda i: world.sgd(i, x))


def fedprox(world: World, given: dict[str, Scalar]) -> Rule:
    return lambda x, asked: world.mean(asked, lambda i: world.sgd(i, x, mu=float(given["proximal"])))


def fedavgm(world: World, given: dict[str, Scalar]) -> Rule:
    v = np.zeros(2)

    def rule(x: Vector, asked: list[int]) -> Vector:
        nonlocal v
        v = given["server-momentum"] * v + x - world.mean(asked, lambda i: world.sgd(i, x))
        return x - v

    return rule


def fedopt(world: World, given: dict[str, Scalar]) -> Rule:
    """Algorithm 2 of arXiv 2003.00295, whose Delta points the other way: from x to the mean."""
    beta_1, tau = given["server-momentum"], given["server-adaptivity"]
    beta_2 = given.get("server-second-momentum", 0.0)
    m, v = np.zeros(2), np.full(2, tau**2)

    def rule(x: Vector, asked: list[int]) -> Vector:
        nonlocal m, v
        delta = world.mean(asked, lambda i: world.sgd(i, x) - x)
        m = beta_1 * m + (1 - beta_1) * delta
        v = {
            "adagrad": v + delta**2,
            "yogi": v - (1 - beta_2) * delta**2 * np.sign(v - delta**2),
            "adam": beta_2 * v + (1 - beta_2) * delta**2,
        }[str(given["server-optimizer"])]
        return x + given["server-learning-rate"] * m / (np.sqrt(v) + tau)

    return rule


def scaffold(world: World, given: dict[str, Scalar]) -> Rule:
    """Option II of arXiv 1910.06378: plain means, c over all N."""
    c, c_i = np.zeros(2), [np.zeros(2) for _ in world.clients]

    def rule(x: Vector, asked: list[int]) -> Vector:
        nonlocal c
        y = {i: world.sgd(i, x, correction=c - c_i[i]) for i in asked}
        new = {i: c_i[i] - c + (x - y[i]) / (world.K[i] * ETA) for i in asked}
        c = c + sum(new[i] - c_i[i] for i in asked) / len(world.clients)
        for i in asked:
            c_i[i] = new[i]
        return x + sum(y[i] - x for i in asked) / len(asked)

    return rule


def fednova(world: World, given: dict[str, Scalar]) -> Rule:
    """arXiv 2007.07481 with a_i = K_i: normalised gradients d_i, and tau_eff of the round."""

    def rule(x: Vector, asked: list[int]) -> Vector:
        tau_eff = sum(world.n[i] * world.K[i] for i in asked) / world.n[asked].sum()
        return x - tau_eff * ETA * world.mean(asked, lambda i: (x - world.sgd(i, x)) / (ETA * world.K[i]))

    return rule


def fedvarp(world: World, given: dict[str, Scalar]) -> Rule:
    """arXiv 2207.14130: plain means, y_i the last displacement of each of all N."""
    y = [np.zeros(2) for _ in world.clients]

    def rule(x: Vector, asked: list[int]) -> Vector:
        delta = {i: x - world.sgd(i, x) for i in asked}
        v = sum(y) / len(y) + sum(delta[i] - y[i] for i in asked) / len(asked)
        for i in asked:
            y[i] = delta[i]
        return x - v

    return rule


def p_tuning(world: World, given: dict[str, Scalar]) -> Rule:
    return lambda x, asked: world.mean(asked, lambda i: world.adam(i, x))


def momd(world: World, given: dict[str, Scalar]) -> Rule:
    beta = given["device-momentum"]

    def local(i: int, x: Vector) -> Vector:
        y, v = x.copy(), np.zeros_like(x)
        for _ in range(world.K[i]):
            v = beta * v + world.A[i] @ (y - world.a[i])
            y = y - ETA * v
        return y

    return lambda x, asked: world.mean(asked, lambda i: local(i, x))


def moms_adamd(world: World, given: dict[str, Scalar]) -> Rule:
    m, t, beta = np.zeros(2), 0, given["server-momentum"]

    def rule(x: Vector, asked: list[int]) -> Vector:
        nonlocal m, t
        m, t = beta * m + (1 - beta) * (x - world.mean(asked, lambda i: world.adam(i, x))), t + 1
        return x - m / (1 - beta**t)

    return rule


PLAIN_MEANS, ALL_CLIENTS = {"SCAFFOLD", "FedVARP"}, {"FedNova"}
RULES: dict[str, Callable[[World, dict[str, Scalar]], Rule]] = {
    "FedAvg": fedavg,
    "FedProx": fedprox,
    "FedAvgM": fedavgm,
    "FedAdam": fedopt,
    "FedYogi": fedopt,
    "FedAdagrad": fedopt,
    "SCAFFOLD": scaffold,
    "FedNova": fednova,
    "FedVARP": fedvarp,
    "P-tuning v2 with FedAvg": p_tuning,
    "MomD": momd,
    "MomS+AdamD": moms_adamd,
    **{f"{name} with FedAvg": p_tuning for name in ("Prompt Tuning", "LPT", "IDPG", "ATTEMPT", "Adapter", "LoRA")},
    "FedPrompt": p_tuning,
}


def rounds_of(clients: int, per_round: int) -> Iterator[list[int]]:
    rng = np.random.default_rng(5)
    for _ in range(15):
        yield rng.permutation(clients)[:per_round].tolist()


@pytest.mark.parametrize("method", RULES)
def test_it_equals_the_published_rule_round_by_round(method: str) -> None:
    """Where the paper takes plain means, on clients of equal n_i; K_i are unequal for all."""
    problem = four_clients()
    if method in PLAIN_MEANS:
        problem = replace(problem, examples=(20, 20, 20, 20))
    rule, x = RULES[method](World(problem), METHODS[method]), np.zeros(2)
    federation = Federation(problem, complete(method, clip_norm=1e9, learning_rate=ETA))
    for asked in rounds_of(4, 4 if method in ALL_CLIENTS else 2):
        federation.round(asked)
        x = rule(x, asked)
        np.testing.assert_allclose(federation.state.x.numpy(), x, rtol=1e-10, atol=1e-12)
