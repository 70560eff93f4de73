import warnings

import numpy as np
import pytest
from datasets import Dataset
from flwr_datasets.partitioner import InnerDirichletPartitioner
from hypothesis import given
from hypothesis import strategies as st

from data.label_skew import LabelSkewPartitioner, client_sizes
from data.partition import partition
from data.sources import Splits, load_splits, order_labels
from fedpeptao.errors import InputError


def splits_of(train: list[str], validation: list[str]) -> Splits:
    tables = [Dataset.from_dict({"text": labels, "label": labels}) for labels in (train, validation)]
    return Splits("made up", tables[0], tables[1], None, "")


@pytest.fixture(scope="module")
def docs() -> Splits:
    return load_splits("stdlib-docs")


def label_shares(table: Dataset, parts: list[np.ndarray]) -> np.ndarray:
    labels = order_labels(table["label"])
    classes = np.array([labels.index(label) for label in table["label"]])
    return np.stack([np.bincount(classes[part], minlength=len(labels)) / len(part) for part in parts])


def mean_correlation(splits: Splits, train: list[np.ndarray], validation: list[np.ndarray]) -> float:
    pairs = zip(label_shares(splits.train, train), label_shares(splits.validation, validation), strict=True)
    return float(np.mean([np.corrcoef(ours, theirs)[0, 1] for ours, theirs in pairs]))


@pytest.mark.parametrize("kind", ["iid", "label-skew"])
@pytest.mark.parametrize("alpha", [0.3, 0.05])
def test_every_row_has_one_client_and_no_client_too_few(docs: Splits, kind: str, alpha: float) -> None:
    train, validation = partition(docs, clients=100, kind=kind, alpha=alpha, seed=1)
    for parts, table, least in ((train, docs.train, 8), (validation, docs.validation, 1)):
        assert len(parts) == 100
        assert min(len(part) for part in parts) >= least
        assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(len(table)))
        assert all(np.all(np.diff(part) > 0) for part in parts)


@pytest.mark.parametrize("kind", ["iid", "label-skew"])
def test_same_seed_same_bits(docs: Splits, kind: str) -> None:
    first, again, other = (partition(docs, clients=20, kind=kind, alpha=0.3, seed=seed) for seed in (5, 5, 6))
    for one, two, three in zip(first, again, other, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))
        assert not all(np.array_equal(a, b) for a, b in zip(one, three, strict=True))


def test_priors_of_train_and_validation_correlate(docs: Splits) -> None:
    train, validation = partition(docs, clients=100, kind="label-skew", alpha=0.3, seed=0)
    assert mean_correlation(docs, train, validation) > 0.6
    shuffled = [validation[client] for client in np.random.default_rng(0).permutation(100)]
    assert mean_correlation(docs, train, shuffled) < 0.2


def test_smaller_alpha_is_more_skewed(docs: Splits) -> None:
    largest = [
        label_shares(docs.train, partition(docs, clients=30, kind=kind, alpha=alpha, seed=0)[0]).max(axis=1).mean()
        for kind, alpha in (("label-skew", 0.05), ("label-skew", 0.3), ("label-skew", 1000.0), ("iid", 1.0))
    ]
    assert largest[0] > largest[1] + 0.1 > largest[2] + 0.2
    assert abs(largest[2] - largest[3]) < 0.03


def test_iid_sizes_differ_by_one_at_most(docs: Splits) -> None:
    sizes = [len(part) for part in partition(docs, clients=7, kind="iid", alpha=1.0, seed=0)[0]]
    assert max(sizes) - min(sizes) <= 1


def test_sizes_of_train_and_validation_go_together(docs: Splits) -> None:
    train, validation = partition(docs, clients=50, kind="label-skew", alpha=0.3, seed=0)
    sizes = [[len(part) for part in parts] for parts in (train, validation)]
    assert np.corrcoef(sizes[0], sizes[1])[0, 1] > 0.95
    assert np.std(sizes[0]) / np.mean(sizes[0]) == pytest.approx(5**-0.5, rel=0.3)  # of Dirichlet(5)


@pytest.mark.parametrize("alpha", [1e-8, 1e-3])
def test_tiny_alpha_on_which_flowers_own_divides_by_zero(alpha: float) -> None:
    splits = splits_of(["a"] * 40 + ["b"] * 40 + ["c"] * 40, ["a"] * 10 + ["b"] * 10 + ["c"] * 10)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train, _ = partition(splits, clients=4, kind="label-skew", alpha=alpha, seed=0)
    assert np.array_equal(np.sort(np.concatenate(train)), np.arange(120))

    theirs = InnerDirichletPartitioner([30] * 4, "label", alpha, seed=0)
    theirs.dataset = Dataset.from_dict({"label": [0] * 40 + [1] * 40 + [2] * 40})
    with pytest.warns(RuntimeWarning, match="invalid value"), pytest.raises(ValueError, match="NaN"):
        theirs.load_partition(0)


def test_equals_flowers_own_where_that_works() -> None:
    table = Dataset.from_dict({"class": [0, 1, 2] * 40})
    ours, theirs = (
        LabelSkewPartitioner(np.array([30, 50, 40]), 3, 1.0, seed=2),
        InnerDirichletPartitioner([30, 50, 40], "class", 1.0, seed=2),
    )
    ours.dataset = theirs.dataset = table.add_column("row", list(range(120)))
    for client in range(3):
        assert list(ours.load_partition(client)["row"]) == list(theirs.load_partition(client)["row"])


def test_a_label_that_validation_lacks_shifts_no_priors() -> None:
    train = ["a"] * 600 + ["b"] * 600 + ["c"] * 600
    splits = splits_of(train, ["b"] * 200 + ["c"] * 200)
    ours, theirs = partition(splits, clients=10, kind="label-skew", alpha=0.3, seed=0)
    share_of_b = label_shares(splits.train, ours)[:, 1:]
    share_of_b = share_of_b[:, 0] / np.maximum(share_of_b.sum(axis=1), 1e-9)
    assert np.corrcoef(share_of_b, label_shares(splits.validation, theirs)[:, 0])[0, 1] > 0.6


@given(st.integers(1, 40), st.integers(1, 9), st.integers(0, 300), st.integers(0, 2**32))
def test_sizes_add_up_and_none_is_under_the_least(clients: int, least: int, more: int, seed: int) -> None:
    examples = clients * least + more
    sizes = client_sizes(examples, clients, least, np.random.default_rng(seed))
    assert sizes.sum() == examples
    assert sizes.min() >= least


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"clients": 0}, "clients"),
        ({"clients": 6}, "clients"),
        ({"clients": 5, "min_examples": 9}, "clients"),
        ({"kind": "dirichlet"}, "partition"),
        ({"alpha": 0.0}, "alpha"),
        ({"alpha": float("inf")}, "alpha"),
        ({"alpha": float("nan")}, "alpha"),
    ],
)
def test_impossible_values_name_their_key(settings: dict[str, object], key: str) -> None:
    splits = splits_of(["a", "b"] * 20, ["a"] * 5)  # 5 clients of 8 and 1
    good: dict[str, object] = {"clients": 5, "kind": "label-skew", "alpha": 0.3, "seed": 0}
    assert len(partition(splits, **good)[0]) == 5  # type: ignore[arg-type]
    with pytest.raises(InputError) as caught:
        partition(splits, **(good | settings))  # type: ignore[arg-type]
    assert caught.value.key == key
