"""The order of batches from blocks: decided by the seed, complete, resumable to the bit, and shared out among hosts."""

import dataclasses
import json
import shutil
from collections import Counter
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

from data_gen.es3.dataset import write_dataset
from unisc.data import blocks, columns
from unisc.data.pack import BatchShape
from unisc.data.pipeline import PackedRequests, iterate, packed
from unisc.data.stream import PackedBlocks
from unisc.errors import InputError
from unisc.train.loop import Runtime
from unisc.train.ranking import TrainConfig, train


@pytest.fixture(scope="module")
def dataset(samples, tmp_path_factory):
    """200 train requests in 13 blocks."""
    out = tmp_path_factory.mktemp("stream") / "dataset"
    write_dataset(samples, out, requests_per_block=16, num_shards=3)
    return out


@pytest.fixture(scope="module")
def data(dataset):
    return blocks.load(dataset, "train", history_len=3)


@pytest.fixture(scope="module")
def shape(data):
    return BatchShape.of(data.spec, candidates=64, mean_list_len=8)


def make(data, shape, **options):
    return PackedBlocks(data, shape, **{"seed": 1, "num_epochs": 1, "window_blocks": 4} | options)


def candidates(batch):
    """Everything a batch says of each real candidate, as bytes."""
    n = int((batch.weights[:, 0] > 0).sum())
    request, rows = batch.request_index[:n], np.asarray(batch.unique_rows)
    masked = np.where(batch.history_mask[..., None], rows[batch.history_ids], -1)
    parts = [
        rows[batch.candidate_ids[:n]], rows[batch.request_ids][request], masked.reshape(len(masked), -1)[request],
        batch.candidate_numeric[:n].view(np.int32), batch.domain[:n, None], batch.labels[:n].view(np.int32),
        batch.weights[:n].view(np.int32),
    ]  # fmt: skip
    return [row.tobytes() for row in np.concatenate(parts, axis=1).astype(np.int32)]


def all_candidates(source):
    return [c for i in range(len(source)) for c in candidates(source[i])]


def same(a, b):
    pairs = [(x, y) for x, y in zip(a, b, strict=True) if x is not None or y is not None]
    return all(x.dtype == y.dtype and np.array_equal(x, y) for x, y in pairs)


def test_an_epoch_holds_every_candidate_of_the_mapped_path_once_with_its_features(samples, data, shape):
    mapped = all_candidates(PackedRequests(columns.load(samples, "train", history_len=3), shape, seed=1))
    epochs = all_candidates(make(data, shape, num_epochs=2))
    first, second = epochs[: len(mapped)], epochs[len(mapped) :]
    assert sorted(first) == sorted(second) == sorted(mapped)
    assert len(set(mapped)) > 0.9 * len(mapped)  # the comparison tells candidates apart
    assert first != second


def test_lists_longer_than_a_batch_are_cut_and_lose_nothing(samples, data):
    shape = BatchShape.of(data.spec, candidates=7, mean_list_len=8)
    mapped = all_candidates(PackedRequests(columns.load(samples, "train", history_len=3), shape, seed=1))
    assert sorted(all_candidates(make(data, shape))) == sorted(mapped)


def test_the_seed_alone_decides_the_order(data, dataset, shape):
    once = make(data, shape, position_dropout=0.3)
    again = make(blocks.load(dataset, "train", history_len=3), shape, position_dropout=0.3, read_ahead=3)
    assert all(same(once[i], again[i]) for i in reversed(range(len(once))))
    assert candidates(make(data, shape, seed=2)[0]) != candidates(make(data, shape)[0])


def test_blocks_are_shuffled_over_the_split_and_requests_within_a_window(data, shape):
    source = make(data, shape, window_blocks=4)
    first_window = [c for i in range(source._first[1]) for c in candidates(source[i])]
    of_block = [set(candidates_of(data, block)) for block in range(data.num_blocks)]
    visited = [next(b for b, held in enumerate(of_block) if c in held) for c in first_window]
    assert set(visited) == set(source._windows[0].blocks.tolist()) and len(set(visited)) >= 4
    assert sorted(set(visited)) != list(range(len(set(visited))))
    changes = np.count_nonzero(np.diff(visited))
    assert changes > 20  # of 64 lists, neighbours rarely come from one block


def candidates_of(data, block):
    alone = dataclasses.replace(data, lengths=data.lengths[: data.rows_of(block).stop])
    shape = BatchShape.of(data.spec, candidates=64, mean_list_len=8)
    source = PackedBlocks(alone, shape, seed=0, window_blocks=1)
    at = next(i for i, window in enumerate(source._windows) if list(window.blocks) == [block])
    return [c for i in range(source._first[at], source._first[at + 1]) for c in candidates(source[i])]


@pytest.mark.parametrize("num_threads", [0, 2])
def test_an_iterator_set_to_a_saved_state_goes_on_where_it_was_to_the_bit(data, dataset, shape, num_threads):
    options = {"num_epochs": 2, "position_dropout": 0.3}
    source = make(data, shape, **options)
    whole = list(iterate(source))
    assert len(whole) == len(source)
    inside, last = source._first[1] // 2, len(source) // 2  # within a window, and at the end of an epoch
    for stop in (0, inside, last, len(source) - 1):
        batches = iterate(make(data, shape, **options), num_threads=num_threads)
        for _ in range(stop):
            next(batches)
        state = json.loads(json.dumps(batches.get_state()))
        assert len(json.dumps(state)) < 200
        fresh = make(blocks.load(dataset, "train", history_len=3), shape, **options, read_ahead=2)
        resumed = iterate(fresh, num_threads=num_threads)
        resumed.set_state(state)
        rest = list(resumed)
        assert len(rest) == len(whole) - stop
        assert all(same(a, b) for a, b in zip(rest, whole[stop:], strict=True))


@pytest.mark.parametrize("host_count", [2, 3])
def test_hosts_share_each_epoch_out_and_take_equally_many_batches(data, shape, host_count):
    hosts = [make(data, shape, num_epochs=2, host_index=h, host_count=host_count) for h in range(host_count)]
    assert len({len(host) for host in hosts}) == 1
    assert len({host.num_dropped for host in hosts}) == 1
    every = Counter(all_candidates(make(data, shape)))
    for epoch in range(2):
        seen: Counter[bytes] = Counter()
        for host in hosts:
            of_epoch = [i for i, window in enumerate(host._windows) if window.epoch == epoch]
            seen.update(c for i in range(host._first[of_epoch[0]], host._first[of_epoch[-1] + 1]) for c in candidates(host[i]))
        assert not seen - every  # nothing twice
        assert (every - seen).total() <= hosts[0].num_dropped * shape.candidates
        assert sorted(b for host in blocks_of(hosts, epoch) for b in host) == list(range(data.num_blocks))
    assert blocks_of(hosts, 0) != blocks_of(hosts, 1)


def blocks_of(hosts, epoch):
    return [sorted(int(b) for w in host._windows if w.epoch == epoch for b in w.blocks) for host in hosts]


def test_more_hosts_than_blocks_are_refused(data, shape):
    with pytest.raises(InputError, match="host 0 of 14"):
        make(data, shape, host_count=14)
    with pytest.raises(InputError, match="host 2 of 2"):
        make(data, shape, host_index=2, host_count=2)


def test_a_smaller_fraction_is_trained_on_a_subset(dataset, shape):
    few, more = (all_candidates(make(blocks.load(dataset, "train", history_len=3, fraction=f), shape)) for f in (0.33, 0.7))
    assert 0 < len(few) < len(more) and set(few) <= set(more)


def test_position_dropout_changes_nothing_but_positions_of_whole_requests(data, shape):
    plain, dropped = (make(data, shape, position_dropout=p) for p in (0.0, 0.4))
    position = [f.name for f in data.spec.at("candidate")].index("position")
    not_shown = data.spec.table_offsets()["position"]
    hidden = total = 0
    for i in range(len(plain)):
        a, b = plain[i], dropped[i]
        np.testing.assert_array_equal(a.labels, b.labels)
        real = a.weights[:, 0] > 0
        before, after = (x.unique_rows[x.candidate_ids[:, position]] for x in (a, b))
        shown = real & (before != not_shown)
        hidden, total = hidden + (after[shown] == not_shown).sum(), total + shown.sum()
        np.testing.assert_array_equal(before[~shown & real], after[~shown & real])
    assert 0.25 < hidden / total < 0.55


def test_windows_of_the_usual_size_waste_at_most_two_slots_in_a_hundred(data):
    lengths = np.random.default_rng(0).integers(5, 60, 60_000).astype(np.int32)
    large = dataclasses.replace(data, lengths=lengths, requests_per_block=256)
    shape = BatchShape.of(data.spec, candidates=4096, mean_list_len=float(lengths.mean()))
    source = PackedBlocks(large, shape, seed=0)
    assert len(source._windows) > 3
    assert large.num_examples / (len(source) * shape.candidates) > 0.98


def test_a_damaged_record_ends_the_iteration_with_one_line(dataset, tmp_path, shape):
    copy = shutil.copytree(dataset, tmp_path / "copy")
    data = blocks.load(copy, "train", history_len=3)
    shard = sorted(copy.glob("*-train.*"))[2]
    shard.write_bytes(shard.read_bytes()[:100])
    with pytest.raises(InputError, match="cannot be read") as error:
        list(iterate(make(data, shape)))
    assert "\n" not in str(error.value)


@pytest.fixture(scope="module")
def tiny_model(load_file):
    return load_file(Path(__file__).parents[1] / "train" / "tiny_model.py").TinyModel


class Interrupted(Exception):
    pass


def test_the_training_loop_takes_blocks_and_resumes_to_the_bit(data, dataset, tiny_model, tmp_path):
    config = TrainConfig(
        batch_candidates=128, learning_rate=0.01, table_learning_rate=0.1, weight_decay=0.0, purchase_weight=0.5, seed=0,
        num_epochs=2,
    )  # fmt: skip

    def run(data, runtime=None):
        model = tiny_model(data.spec, 4, 8, rngs=nnx.Rngs(0))
        return train(model, data, config, embed_dim=4, runtime=runtime)

    def stop(counts, num_steps):
        if counts.num_steps == num_steps // 2 + 1:
            raise Interrupted

    whole = run(data)
    assert whole.counts.num_examples == 2 * data.num_examples
    assert whole.num_steps == len(packed(data, whole.shape, seed=0, num_epochs=2))
    with pytest.raises(Interrupted):
        run(data, Runtime(directory=tmp_path, checkpoint_every_steps=3, on_step=stop))
    resumed = run(blocks.load(dataset, "train", history_len=3), Runtime(directory=tmp_path, checkpoint_every_steps=3))
    assert resumed.counts.num_examples == whole.counts.num_examples
    for a, b in zip(jax.tree.leaves(whole.state), jax.tree.leaves(resumed.state), strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
