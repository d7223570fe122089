"""The linear probe on embeddings that say everything, nothing, or a known part."""

import numpy as np
import pytest

from unisc.errors import InputError
from unisc.probe import ProbeConfig, fit, is_held, linear_probe


def data(n=1200, classes=4, dim=6, seed=0, strength=4.0):
    rng = np.random.default_rng(seed)
    labels = rng.choice(classes, n, p=np.array([0.55, 0.25, 0.15, 0.05])[:classes])
    centres = strength * rng.normal(size=(classes, dim))
    return centres[labels] + rng.normal(size=(n, dim)), labels, np.arange(n)


def test_separable_classes_are_read_off():
    found = linear_probe(*data(strength=8.0))
    assert found.accuracy.value > 0.99 and found.balanced_accuracy.value > 0.97
    assert found.accuracy.low <= found.accuracy.value <= found.accuracy.high
    assert found.num_classes == 4 and found.num_train + found.num_test == 1200


def test_noise_gives_the_majoritys_share_and_no_balance():
    found = linear_probe(*data(strength=0.0))
    assert found.accuracy.value == pytest.approx(found.majority, abs=0.03)
    assert found.balanced_accuracy.value < 0.35 and found.majority == pytest.approx(0.55, abs=0.06)


def test_scale_and_shift_of_the_embedding_change_nothing():
    x, labels, keys = data(strength=0.7)
    assert linear_probe(100 * x - 5, labels, keys).accuracy == linear_probe(x, labels, keys).accuracy


def test_the_fit_is_at_its_optimum():
    x, y, _ = data(n=200, strength=0.5)
    config = ProbeConfig(l2=0.1)
    weights, bias = fit(x, y, 4, config)
    logits = x @ weights + bias
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    p[np.arange(200), y] -= 1
    np.testing.assert_allclose(x.T @ p / 200 + 0.1 * weights, 0, atol=1e-3)
    np.testing.assert_allclose(p.mean(axis=0), 0, atol=1e-3)


def test_the_split_hangs_on_keys_alone_and_keeps_one_key_together():
    keys = np.arange(20_000)
    held = is_held(keys, 0.3)
    assert held.mean() == pytest.approx(0.3, abs=0.015)
    np.testing.assert_array_equal(is_held(keys[::-1], 0.3), held[::-1])
    # Leaking rows: each key twice, the class random by key. Only a split by key keeps the probe at chance.
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(300, 200)), rng.integers(0, 2, 300)
    found = linear_probe(np.repeat(x, 2, axis=0), np.repeat(labels, 2), np.repeat(np.arange(300), 2))
    assert found.accuracy.value < 0.65


def test_unknown_and_rare_classes_are_left_out():
    x, labels, keys = data()
    labels = np.where(np.arange(1200) < 200, -1, labels)
    labels[-3:] = 9
    found = linear_probe(x, labels, keys)
    assert found.num_classes == 4 and found.num_train + found.num_test == 997
    assert linear_probe(x, labels, keys, ProbeConfig(max_classes=2)).num_classes == 2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, y, k: linear_probe(x * np.nan, y, k), "embeddings: some value"),
        (lambda x, y, k: linear_probe(x, np.zeros_like(y), k), "labels: 1 classes"),
        (lambda x, y, k: linear_probe(x[1:], y, k), "give one each"),
        (lambda x, y, k: linear_probe(x, y, np.zeros_like(k)), "one side of the split"),
        (lambda x, y, k: ProbeConfig(test_share=1.0), "test_share 1.0"),
        (lambda x, y, k: ProbeConfig(min_count=1), "min_count"),
    ],
)
def test_a_mistake_is_named(call, message):
    with pytest.raises(InputError, match=message):
        call(*data(n=100, strength=1.0))
