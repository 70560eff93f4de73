"""A client's answer to the question for spectra, against Hessians that PyTorch writes out and optimisers of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.autograd.functional import hessian, hvp

from client_app import host
from client_app.curvature import spectrum_of
from client_app.start import travelling_layout
from client_app.state import ClientState, MemoryStore
from federation import resources
from federation.evaluation import batch_inputs, targets
from federation.messages import Ask, CurvatureReply
from federation.randomness import generator
from federation.settings import Settings, parse
from models.curvature import second_order
from models.random_models import random_model, random_tokenizer
from strategies import ratio
from strategies.spectrum import Spectrum
from tests.small_runs import Flat, model_of

MakeFlat = Callable[..., Flat]
CLIENT, LABELS = 2, ("animals", "colours", "verbs")


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two layers with weights so large that the loss is curved in the prompts."""
    folder = tmp_path_factory.mktemp("bert")
    model = random_model("bert", 7, "sdpa", torch.float32)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.mul_(8)
    model.save_pretrained(folder)
    random_tokenizer("bert").save_pretrained(folder)
    return folder


@pytest.fixture
def flat(make_flat: MakeFlat, checkpoint: Path) -> Flat:
    """128 parameters; 5 of a client's examples."""
    small = {"prompt_tokens": 1, "prompt_init_std": 1.0, "curvature_examples": 5}
    return make_flat(model=str(checkpoint), ratio="eigengap", warmup_rounds=1, **small)


def row_of(settings: Settings) -> Tensor:
    """Initial prompts and a head that tells classes apart."""
    _, layout, row = model_of(settings, (0, 1), len(LABELS))
    values = layout.unflatten(row)
    return layout.flatten({name: value * (30 if name.startswith("head") else 1) for name, value in values.items()})


def ask_for(settings: Settings) -> Ask:
    shared = row_of(settings)
    return Ask("run", 7, LABELS, (0, 1), (CLIENT,), (7,), 0, True, shared)


def answer(flat: Flat, client: int = CLIENT) -> CurvatureReply:
    settings = parse(flat)
    return spectrum_of(settings, ask_for(settings), client, 0, MemoryStore())


def loss_of(flat: Flat) -> tuple[Callable[[Tensor], Tensor], Tensor, list[int]]:
    """The loss of the prompts alone on the fixed batch, in plain PyTorch, where they are, and which examples it is."""
    settings = parse(flat)
    model, layout, _ = model_of(settings, (0, 1), len(LABELS))
    shared = row_of(settings)
    shard = resources.tokenised(settings).train.select(resources.shards(settings).train[CLIENT])
    order = generator(settings.federation.seed, "curvature", CLIENT).permutation(len(shard))
    batch = [int(i) for i in order[: settings.selection.curvature_examples]]
    size = sum(entry.size for entry in layout.entries if entry.layer is not None)

    def loss(x: Tensor) -> Tensor:
        model.bind(torch.cat([x, shared[size:]])[None])
        logits = model.logits(batch_inputs(model.backbone, shard, batch))
        return torch.nn.functional.cross_entropy(logits, targets(shard, LABELS)[batch])

    return loss, shared[:size], batch


# -- the spectrum ------------------------------------------------------------------------------------------


def test_a_small_models_spectrum_is_its_hessians(flat: Flat) -> None:
    loss, x, batch = loss_of(flat)
    with second_order():
        H = hessian(loss, x)
    eigenvalues = torch.linalg.eigvalsh(((H + H.T) / 2).double()).numpy()
    reply = answer(flat)
    largest = np.abs(eigenvalues).max()
    assert largest > 1e-3
    np.testing.assert_allclose(reply.theta, eigenvalues, rtol=0, atol=1e-5 * largest)
    assert (reply.client, reply.round, reply.fault) == (CLIENT, 7, "")
    assert (reply.parameters, reply.batch) == (len(x), len(batch)) == (128, 5)
    assert reply.products == 128 + 8
    assert set(reply.weight) == {1 / 128}
    assert set(reply.residual) == {0}
    assert reply.seconds > 0
    assert reply.peak_bytes > 50e6


def test_large_ones_take_probes_and_steps(flat: Flat) -> None:
    """1152 parameters: the first two moments of the Ritz values are q' H q and ||H q||^2, over the probes q of (seed, client)."""
    flat = {**flat, "prompt-tokens": 9, "curvature-steps": 10, "curvature-probes": 3}
    reply = answer(flat)
    assert (reply.parameters, reply.products) == (1152, 3 * 10 + 8)
    assert len(reply.theta) == 30
    assert sum(reply.weight) == pytest.approx(1)
    loss, x, _ = loss_of(flat)
    rng, first, second = generator(parse(flat).federation.seed, "probe", CLIENT), 0.0, 0.0
    for _ in range(3):
        q = torch.from_numpy(rng.integers(0, 2, size=1152, dtype=np.int8) * 2 - 1).float() / 1152**0.5
        with second_order():
            _, product = hvp(loss, x, q)
        first += float(q @ product) / 3
        second += float(product @ product) / 3
    theta, weight = np.array(reply.theta), np.array(reply.weight)
    assert float(weight @ theta) == pytest.approx(first, rel=1e-4, abs=1e-5 * np.abs(theta).max())
    assert float(weight @ theta**2) == pytest.approx(second, rel=1e-4)


def test_the_same_bits_twice_and_other_probes_for_other_clients(flat: Flat) -> None:
    flat = {**flat, "prompt-tokens": 9, "curvature-steps": 5}
    one, two, other = answer(flat), answer(flat), answer(flat, CLIENT + 1)
    assert replace(one, seconds=0.0, peak_bytes=0) == replace(two, seconds=0.0, peak_bytes=0)
    assert one.theta != other.theta
    assert one.theta != answer({**flat, "seed": 1}).theta


def test_a_client_with_fewer_examples_looks_at_all_it_has(flat: Flat) -> None:
    settings = parse({**flat, "curvature-examples": 1000})
    train, _ = host.shard_of(settings, CLIENT)
    assert answer({**flat, "curvature-examples": 1000}).batch == len(train) < 1000
    assert answer({**flat, "curvature-examples": 3}).batch == 3


def test_dropout_is_off_after_training_with_it(flat: Flat) -> None:
    steady = answer(flat)
    settings = parse({**flat, "backbone-dropout": 0.5})
    assert host.train(settings, ask_for(settings), CLIENT, 0, MemoryStore()).steps > 0
    assert spectrum_of(settings, ask_for(settings), CLIENT, 0, MemoryStore()).theta == steady.theta


def test_a_head_that_stays_is_the_clients_own(flat: Flat) -> None:
    """The same values, prompts sent and the head kept, as all of it sent."""
    settings, personal, store = parse(flat), parse({**flat, "personal-head": True}), MemoryStore()
    _, layout, _ = model_of(settings, (0, 1), len(LABELS))
    values, sent = layout.unflatten(row_of(settings)), travelling_layout(personal, (0, 1), LABELS)
    store.keep(CLIENT, ClientState(7, 0, {name: values[name] for name in values if name not in sent.names}))
    ask = replace(ask_for(settings), shared=sent.flatten({name: values[name] for name in sent.names}))
    own = spectrum_of(personal, ask, CLIENT, 7, store)
    assert own.theta == answer(flat).theta
    assert own.theta != spectrum_of(personal, ask, CLIENT, 0, store).theta


# -- how far the gradient is from linear -------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_lipschitz_is_that_of_eight_steps_of_the_devices_optimiser(flat: Flat, optimizer: str) -> None:
    """With PyTorch's own AdamW and SGD, its own Hessian-vector products, and the definition written out."""
    eta, decay, norm = 0.3, (0.1 if optimizer == "adam" else 0.0), 0.05
    flat = {**flat, "device-optimizer": optimizer, "learning-rate": eta, "weight-decay": decay, "clip-norm": norm}
    loss, start, _ = loss_of(flat)
    x = start.clone().requires_grad_()
    kind = torch.optim.AdamW if optimizer == "adam" else torch.optim.SGD
    steps = kind([x], lr=eta, weight_decay=decay)
    points, gradients = [], []
    for _ in range(9):
        steps.zero_grad()
        loss(x).backward()  # type: ignore[no-untyped-call]
        assert x.grad is not None
        points.append(x.detach().clone())
        gradients.append(x.grad.clone())
        x.grad *= min(1.0, norm / float(x.grad.norm()))
        steps.step()
    worst = 0.0
    for a, b in combinations(range(9), 2):
        delta = points[b] - points[a]
        with second_order():
            _, product = hvp(loss, start, delta)
        worst = max(worst, float((product - (gradients[b] - gradients[a])).norm() / delta.norm()))
    assert worst > 1e-4
    assert answer(flat).lipschitz == pytest.approx(worst, rel=1e-3)


# -- the estimate ------------------------------------------------------------------------------------------


def spectrum_in(reply: CurvatureReply) -> Spectrum:
    arrays = (np.array(values) for values in (reply.theta, reply.weight, reply.residual))
    return Spectrum(*arrays, size=reply.parameters, products=reply.products)


def test_the_eigengap_is_that_of_its_spectrum_and_lipschitz(flat: Flat) -> None:
    reply = answer({**flat, "learning-rate": 1e-4})
    wanted = ratio.eigengap(spectrum_in(reply), reply.lipschitz)
    assert wanted.found
    assert 0 < wanted.ratio < 1
    assert (reply.ratio, reply.found) == (wanted.ratio, wanted.found)
    assert tuple(zip(reply.gaps_low, reply.gaps_high, strict=True)) == wanted.gaps


def test_without_a_gap_all_count_and_it_says_so(flat: Flat, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("client_app.curvature.lipschitz", lambda *given: 1e9)
    reply = answer(flat)
    assert (reply.ratio, reply.found, reply.gaps_low, reply.gaps_high) == (1.0, False, [], [])


def test_plateau_takes_one_probe_and_no_lipschitz_estimate(flat: Flat) -> None:
    reply = answer({**flat, "ratio": "plateau", "curvature-probes": 4})
    assert reply.products == len(reply.theta) == 50
    assert sum(reply.weight) == pytest.approx(1)
    assert reply.ratio == ratio.plateau(np.array(reply.theta), np.array(reply.weight))
    assert (reply.found, reply.lipschitz, reply.gaps_low) == (True, 0.0, [])
    assert answer({**flat, "ratio": "plateau", "curvature-steps": 20}).products == 20


# -- what goes wrong ---------------------------------------------------------------------------------------


def test_a_model_that_diverged_is_said_to_have_no_spectrum(flat: Flat) -> None:
    settings = parse(flat)
    ask = ask_for(settings)
    with pytest.raises(ValueError, match="not finite"):
        spectrum_of(settings, replace(ask, shared=ask.shared * 1e38), CLIENT, 0, MemoryStore())


@pytest.mark.parametrize("scale", [1.0, 1e38])
def test_nothing_is_left_on_the_model(flat: Flat, scale: float) -> None:
    settings = parse(flat)
    ask = ask_for(settings)
    try:
        spectrum_of(settings, replace(ask, shared=ask.shared * scale), CLIENT, 0, MemoryStore())
    except ValueError:
        assert scale > 1
    model = resources.tuned(settings, (0, 1), LABELS)
    assert all(slot.prompt is None for slot in model.backbone.slots)
    assert not any(parameter.requires_grad for parameter in model.backbone.model.parameters())
