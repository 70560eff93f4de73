"""Whole runs of every technique: what travels, what is counted, the model from its folder again."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Context, Message

from client_app.app import app
from federation import resources
from federation.settings import parse
from fedpeptao.errors import InputError
from fedpeptao.loaded import open_model
from models.technique_names import BY_LAYER, TECHNIQUES, WHOLE
from tests.refusals import refused_run
from tests.small_runs import Flat, Ran, Watched, go, opens_again, small

MakeFlat = Callable[..., Flat]
KINDS = {
    "deep-prompts": {"prompts"},
    "adapter": {"adapter"},
    "lora": {"lora"},
    "input-prompts": {"prompts"},
    "late-prompts": {"generator"},
    "generated-prompts": {"generator"},
    "mixed-prompts": {"prompts", "generator"},
}
MODELS = ("random:roberta", "random:gpt2")

pytestmark = pytest.mark.usefixtures("no_plots")


@pytest.fixture(scope="module")
def sources(data_file: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """By model: the folders of two runs with input prompts, as `prompt-sources` names them."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("server_app.plots.draw", lambda *given, **named: None)
        root = tmp_path_factory.mktemp("sources")
        return {model: ",".join(str(folder(data_file, root, model, seed)) for seed in (1, 2)) for model in MODELS}


def folder(data: Path, root: Path, model: str, seed: int) -> Path:
    given = {"model": model, "tuned": "input-prompts", "layers": "all", "rounds": 1, "run_name": f"{model[7:]}-{seed}"}
    return go(small(data, root, seed=seed, head="linear", **given)).folder


def settings_of(technique: str, model: str, sources: dict[str, str]) -> dict[str, Any]:
    given: dict[str, Any] = {"tuned": technique, "model": model, "head": "linear", "bottleneck": 6, "lora_rank": 2}
    given |= {"layers": "all"} if technique in WHOLE else {}
    return given | ({"prompt_sources": sources[model]} if technique == "mixed-prompts" else {})


@pytest.mark.parametrize("technique", TECHNIQUES)
@pytest.mark.parametrize("model", MODELS)
def test_a_whole_run(
    make_flat: MakeFlat, sources: dict[str, str], shown: list[str], technique: str, model: str
) -> None:
    watched = Watched()
    ran = go(make_flat(**settings_of(technique, model, sources)), client_app=watched)
    assert ran.summary["status"] == "completed"
    assert all(0 < line["update_norm"] < math.inf and 0 < line["train_loss"] < math.inf for line in ran.lines[1:])
    assert all(torch.isfinite(value).all() for value in ran.parameters.values())
    assert set(ran.lines[-1]["up_detail"]) - {"config"} == KINDS[technique] | {"head"}
    travelled = {name for passed in watched.of("train", "up") for arrays in passed.shapes.values() for name in arrays}
    assert travelled == set(ran.parameters)
    if technique in BY_LAYER:
        assert len(ran.layers) == 1
        assert {name.split(".")[1] for name in ran.parameters if not name.startswith("head.")} == {str(ran.layers[0])}
    opens_again(ran)
    opens_as_a_clients_too(ran)


def opens_as_a_clients_too(ran: Ran) -> None:
    """A client's own model, from the folder and from an export of it."""
    rows = resources.splits(ran.settings).test
    assert rows is not None
    assert ran.summary["final"]["global_loss"] != ran.lines[0]["global_loss"]
    own = open_model(ran.folder, client=0)
    own.save(ran.folder / "client")
    assert torch.equal(open_model(ran.folder / "client").logits(list(rows["text"])), own.logits(list(rows["text"])))


@pytest.mark.parametrize("technique", ["adapter", "lora"])
def test_other_layers_stay_with_the_client(make_flat: MakeFlat, sources: dict[str, str], technique: str) -> None:
    """As prompts do: trained there, and part of its own model alone; `none` has nothing there."""
    given = settings_of(technique, MODELS[0], sources)
    ran = go(make_flat(layers="1", run_name="local", clients_per_round=5, **given))
    text = ["the cat 3", "red 4"]
    shared, own = (open_model(ran.folder, client=client) for client in (None, 2))
    assert {name.split(".")[1] for name in ran.parameters if name.startswith(technique)} == {"1"}
    kept, common = (one.model.layout.unflatten(one.row) for one in (own, shared))
    assert {name for name in kept if not torch.equal(kept[name], common[name])} == {
        name for name in kept if name.startswith(f"{technique}.0.")
    }
    assert not torch.equal(shared.logits(text), own.logits(text))
    none = go(make_flat(layers="1", run_name="none", unselected_prompts="none", **given))
    model = resources.tuned(none.settings, none.layers, none.labels)
    assert model.layers == (1,)
    assert model.lower is not None


@pytest.mark.parametrize("technique", TECHNIQUES)
def test_clients_together_learn_what_each_would_alone(
    make_flat: MakeFlat, sources: dict[str, str], technique: str
) -> None:
    given = {"rounds": 1, "device_optimizer": "sgd", **settings_of(technique, MODELS[0], sources)}
    alone, together = (
        go(make_flat(run_name=f"{count}", clients_together=count, **given)).parameters for count in (1, 3)
    )
    for name, value in alone.items():
        torch.testing.assert_close(together[name], value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("technique", ["adapter", "lora"])
def test_the_ratio_is_estimated_for_them_too(make_flat: MakeFlat, sources: dict[str, str], technique: str) -> None:
    given = {"ratio": "eigengap", "warmup_rounds": 1, "curvature_steps": 4, "curvature_examples": 2}
    few = {"clients": 2, "clients_per_round": 2, "train_examples": 20}
    ran = go(make_flat(**given, **few, **settings_of(technique, MODELS[0], sources)))
    assert 0 < ran.summary["ratio"]["ratio"] <= 1


def test_prompts_from_the_vocabulary(make_flat: MakeFlat) -> None:
    runs = {init: go(make_flat(run_name=init, prompt_init=init, layers="all")) for init in ("normal", "vocabulary")}
    normal, real = (runs[init].parameters["prompt.1"] for init in runs)
    assert not torch.allclose(normal, real, atol=0.05)
    open_model(runs["vocabulary"].folder)


def test_sources_that_do_not_fit_are_refused(
    make_flat: MakeFlat, sources: dict[str, str], tmp_path: Path, data_file: Path
) -> None:
    given = settings_of("mixed-prompts", MODELS[0], sources)
    good = given.pop("prompt_sources").split(",")[0]

    def told(folder: str, **others: Any) -> str:
        error = refused_run(make_flat(**{**given, "prompt_sources": f"{good},{folder}", **others}))
        assert (error.key, error.value) == ("prompt-sources", folder)
        return str(error)

    assert "copy it there" in told("/nowhere")
    assert "that run had the model random:gpt2" in told(sources["random:gpt2"].split(",")[0])
    deep = go(small(data_file, tmp_path, model=MODELS[0], rounds=1, run_name="deep")).folder
    assert "that run tuned deep-prompts" in told(str(deep))
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "settings.json").write_text(json.dumps({"tuned": "input-prompts"}))
    (damaged / "parameters.safetensors").write_bytes(b"torn")
    assert "it is damaged" in told(str(damaged))
    assert "it cannot be looked for (File name too long)" in told(f"/{'x' * 300}")
    error = refused_run(make_flat(**{**given, "prompt_sources": good, "prompt_tokens": 4}))
    assert "its prompt has shape (3, 32), not (4, 32)" in str(error)


def test_a_node_with_other_prompts_in_the_same_place_stops_the_run_before_training(
    make_flat: MakeFlat, sources: dict[str, str], tmp_path: Path
) -> None:
    given = settings_of("mixed-prompts", MODELS[0], sources)
    first, second = (Path(folder) for folder in given.pop("prompt_sources").split(","))
    here = shutil.copytree(first, tmp_path / "mixed")

    def lies_here(run: Path) -> None:
        resources._mixed_prompts.cache_clear()
        shutil.copy(run / "parameters.safetensors", here / "parameters.safetensors")

    def elsewhere(message: Message, context: Context) -> Message | None:
        """The second node reads the second run where all others read the first."""
        if context.node_id != 1001:
            return None
        lies_here(second)
        reply = app(message, context)
        lies_here(first)
        return reply

    watched = Watched(elsewhere)
    with pytest.raises(InputError, match="client 1 holds another version of it than the server") as caught:
        go(make_flat(**given, prompt_sources=str(here)), client_app=watched, nodes=2)
    assert (caught.value.key, caught.value.value) == ("prompt-sources", str(here))
    assert not watched.of("train")


@pytest.mark.parametrize("technique", WHOLE)
def test_what_has_no_layers_asks_for_all(make_flat: MakeFlat, technique: str) -> None:
    error = refused_run(make_flat(tuned=technique, prompt_sources="/a"))
    assert (error.key, error.mend) == ("layers", 'Set layers to "all"')


def test_mixed_prompts_need_sources(make_flat: MakeFlat) -> None:
    with pytest.raises(InputError, match="prompt-sources = '': mixed prompts need some to mix"):
        parse(make_flat(tuned="mixed-prompts", layers="all"))
