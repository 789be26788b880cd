"""Proofs for snippets/training/data_loading.py: DataLoader, loops by hand and counting as oracles."""

import itertools
import math
import multiprocessing
import os
import pickle
import re
import runpy
import time
from collections import Counter
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, RandomSampler, TensorDataset
from torchvision import datasets, transforms

from snippets.training import data_loading
from snippets.training.data_loading import (
    Batches,
    Gather,
    Sharded,
    as_it_is,
    compare,
    feeds,
    floats,
    group_split,
    main,
    pad,
    seconds,
    shuffled,
)

ROOT = Path(__file__).parents[2]
SEEDS = st.integers(0, 10_000)
NAMES = [
    "pictures, one by one", "tensors, 2 workers", "tensors, one by one", "lists of indices", "__getitems__",
    "Batches, from bytes", "Batches",
]
pytestmark = [
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning"),
]


def pairs_of(rows: int, seed: int = 0):
    """Floats (rows, 3) and the numbers 0, …, rows - 1."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, 3, generator=generator), torch.arange(rows)


def same(first, second) -> bool:
    """Whether two lists of batches are equal tensor by tensor, dtypes included."""
    return len(first) == len(second) and all(
        type(one) is tuple and len(one) == len(two)
        and all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(one, two, strict=True))
        for one, two in zip(first, second, strict=True)
    )


# shuffled


@settings(max_examples=30, deadline=None)
@given(n=st.integers(0, 50), seed=SEEDS, epoch=st.integers(0, 100))
def test_shuffled_is_a_permutation_that_repeats(n, seed, epoch):
    order = shuffled(n, seed, epoch)
    assert order.dtype == torch.int64
    assert order.device.type == "cpu"
    assert order.sort().values.tolist() == list(range(n))
    assert torch.equal(order, shuffled(n, seed, epoch))


def test_shuffled_is_the_generators_permutation():
    generator = torch.Generator().manual_seed(3 * 1_000_003 + 7)
    assert torch.equal(shuffled(40, 3, 7), torch.randperm(40, generator=generator))


def test_shuffled_starts_at_epoch_zero():
    assert torch.equal(shuffled(40, 5), shuffled(40, 5, 0))


def test_seeds_and_epochs_of_a_study_share_no_order():
    orders = {tuple(shuffled(20, seed, epoch).tolist()) for seed in range(10) for epoch in range(30)}
    assert len(orders) == 300


@pytest.mark.parametrize("seed", [2**32, 2**40 + 3, -1, 2**64])
def test_every_integer_is_a_seed(seed):
    assert torch.equal(shuffled(30, seed), shuffled(30, seed % 2**32))


def test_shuffled_leaves_the_global_generator_alone():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    shuffled(10, 1)
    assert torch.equal(torch.rand(1), expected)


# pad


@settings(max_examples=30, deadline=None)
@given(lengths=st.lists(st.integers(0, 7), min_size=1, max_size=6), width=st.sampled_from([(), (2,), (3, 2)]), seed=SEEDS)
def test_pad_agrees_with_a_loop(lengths, width, seed):
    generator = torch.Generator().manual_seed(seed)
    samples = [(torch.randn(n, *width, generator=generator), torch.tensor(n)) for n in lengths]
    padded, mask, labels = pad(samples)
    assert padded.shape == (len(lengths), max(lengths), *width)
    assert mask.shape == (len(lengths), max(lengths))
    assert mask.dtype == torch.bool
    assert labels.tolist() == lengths
    for row, (sequence, _) in enumerate(samples):
        for position in range(max(lengths)):
            real = position < len(sequence)
            assert mask[row, position].item() is real
            expected = sequence[position] if real else torch.zeros(width)
            assert torch.equal(padded[row, position], expected)


@pytest.mark.parametrize("dtype", [torch.int64, torch.float64, torch.bool])
def test_pad_keeps_dtypes(dtype):
    padded, _, labels = pad([(torch.ones(2, dtype=dtype), torch.ones(2, dtype=dtype))])
    assert (padded.dtype, labels.dtype) == (dtype, dtype)
    assert labels.shape == (1, 2)


def test_pad_refuses_an_empty_batch():
    with pytest.raises(ValueError, match=r"^expected at least one sample, got none$"):
        pad([])


@pytest.mark.parametrize("odd", [0, 1])
def test_pad_refuses_samples_that_are_no_pairs(odd):
    samples = [(torch.zeros(1), torch.zeros(()))] * 2
    samples[odd] += (torch.zeros(()),)
    with pytest.raises(ValueError, match=r"^(zip\(\) argument 2 is|too many values to unpack)"):
        pad(samples)


def test_pad_collates_for_a_loader():
    samples = [(torch.arange(n), torch.tensor(n)) for n in (3, 1, 2, 5)]
    first, second = DataLoader(samples, batch_size=2, collate_fn=pad)
    assert first[0].tolist() == [[0, 1, 2], [0, 0, 0]]
    assert second[1].sum(dim=1).tolist() == [2, 5]


# Sharded


@pytest.mark.parametrize("workers", [0, 1, 2, 3])
@pytest.mark.parametrize("items", [7, 2])
def test_a_stream_gives_each_item_once(workers, items):
    context = "fork" if workers else None
    loader = DataLoader(Sharded(range(items)), 2, num_workers=workers, multiprocessing_context=context)
    for _ in range(2):
        assert sorted(torch.cat(list(loader)).tolist()) == list(range(items))


def test_workers_take_turns():
    loader = DataLoader(Sharded(range(7)), None, num_workers=2, multiprocessing_context="fork")
    assert list(loader) == [0, 1, 2, 3, 4, 5, 6]


def test_a_stream_works_in_a_spawned_worker():
    loader = DataLoader(Sharded(range(5)), 3, num_workers=1, multiprocessing_context="spawn", persistent_workers=True)
    for _ in range(2):
        assert [batch.tolist() for batch in loader] == [[0, 1, 2], [3, 4]]


@pytest.mark.parametrize(("number", "workers"), [(w, n) for n in (1, 2, 3, 5) for w in range(n)])
def test_a_worker_takes_every_nth_item_from_its_number_on(number, workers, monkeypatch):
    info = type("Info", (), {"id": number, "num_workers": workers})
    monkeypatch.setattr(data_loading, "get_worker_info", lambda: info)
    assert list(Sharded(range(11))) == list(range(11))[number::workers]


def test_outside_a_worker_the_stream_is_whole():
    assert list(Sharded("abc")) == ["a", "b", "c"]


def test_a_stream_reads_no_further_than_asked():
    assert list(itertools.islice(Sharded(Endless()), 3)) == [0, 1, 2]


class Endless:
    def __iter__(self):
        return itertools.count()


def test_a_source_that_runs_out_is_refused():
    with pytest.raises(TypeError, match=r"^expected what restarts, got <class 'list_iterator'>$"):
        Sharded(iter([1, 2]))


# Gather


@settings(max_examples=20, deadline=None)
@given(rows=st.integers(1, 40), size=st.integers(1, 12), drop_last=st.booleans())
def test_gather_gives_the_batches_of_the_data_set_it_is(rows, size, drop_last):
    tensors = pairs_of(rows)
    theirs = DataLoader(TensorDataset(*tensors), size, drop_last=drop_last)
    ours = DataLoader(Gather(*tensors), size, drop_last=drop_last, collate_fn=as_it_is)
    assert same(list(ours), [tuple(batch) for batch in theirs])


def test_gather_shuffles_as_the_loader_does():
    tensors = pairs_of(30)
    torch.manual_seed(0)
    theirs = [tuple(batch) for batch in DataLoader(TensorDataset(*tensors), 7, shuffle=True)]
    torch.manual_seed(0)
    ours = list(DataLoader(Gather(*tensors), 7, shuffle=True, collate_fn=as_it_is))
    assert same(ours, theirs)


def test_gather_looks_up_in_the_order_asked():
    (rows,) = Gather(torch.arange(10, 20)).__getitems__([3, 0, 3])
    assert rows.tolist() == [13, 10, 13]


def test_as_it_is_returns_the_same_object_and_can_be_pickled():
    batch = object()
    assert as_it_is(batch) is batch
    assert pickle.loads(pickle.dumps(as_it_is)) is as_it_is


# Batches


@settings(max_examples=30, deadline=None)
@given(rows=st.integers(0, 50), size=st.integers(1, 20), drop_last=st.booleans())
def test_in_order_batches_are_the_loaders(rows, size, drop_last):
    tensors = pairs_of(rows)
    theirs = DataLoader(TensorDataset(*tensors), size, drop_last=drop_last)
    ours = Batches(*tensors, size=size, drop_last=drop_last)
    assert len(ours) == len(theirs)
    for _ in range(2):
        assert same(list(ours), [tuple(batch) for batch in theirs])


@settings(max_examples=30, deadline=None)
@given(rows=st.integers(1, 50), size=st.integers(1, 20), drop_last=st.booleans(), seed=SEEDS)
def test_shuffled_batches_hold_each_row_once_and_keep_pairs(rows, size, drop_last, seed):
    x, index = pairs_of(rows)
    batches = Batches(x, index, size=size, shuffle=True, drop_last=drop_last, seed=seed)
    found = list(batches)
    assert len(found) == len(batches) == (rows // size if drop_last else math.ceil(rows / size))
    assert [len(i) for _, i in found[:-1]] == [size] * (len(found) - 1)
    counts = Counter(itertools.chain.from_iterable(i.tolist() for _, i in found))
    assert set(counts.values()) <= {1}
    assert len(counts) == (rows // size * size if drop_last else rows)
    assert all(torch.equal(part, x[i]) for part, i in found)


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS, epoch=st.integers(0, 50))
def test_seed_and_epoch_give_the_order(seed, epoch):
    batches = Batches(torch.arange(20), size=8, shuffle=True, seed=seed)
    batches.epoch = epoch
    first, second = (torch.cat([rows for (rows,) in batches]) for _ in range(2))
    assert torch.equal(first, shuffled(20, seed, epoch))
    assert torch.equal(second, shuffled(20, seed, epoch + 1))
    assert batches.epoch == epoch + 2


def test_batches_begin_with_seed_0_and_epoch_0_in_order_and_complete():
    batches = Batches(torch.arange(5), size=2)
    assert (batches.seed, batches.epoch, batches.shuffle, batches.drop_last) == (0, 0, False, False)
    assert [rows.tolist() for (rows,) in batches] == [[0, 1], [2, 3], [4]]
    assert batches.epoch == 1


def test_two_loops_at_once_do_not_disturb_each_other():
    batches = Batches(torch.arange(12), size=5, shuffle=True)
    one, two = iter(batches), iter(batches)
    taken = [next(one)[0], next(two)[0], next(one)[0], next(two)[0]]
    assert torch.equal(torch.cat(taken[::2]), shuffled(12, 0, 0)[:10])
    assert torch.equal(torch.cat(taken[1::2]), shuffled(12, 0, 1)[:10])


def test_batches_are_copies():
    tensor = torch.zeros(4)
    for (rows,) in Batches(tensor, size=2):
        rows.fill_(1.0)
    assert not tensor.any()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float64, torch.bool, torch.bfloat16])
def test_batches_keep_dtype_and_shape(dtype):
    ((rows,),) = Batches(torch.ones(3, 1, 2, dtype=dtype), size=5)
    assert (rows.dtype, rows.shape) == (dtype, (3, 1, 2))


def test_batches_stay_on_the_device_of_the_tensors():
    device = torch.accelerator.current_accelerator(check_available=True) or torch.device("meta")
    for rows, more in Batches(torch.zeros(5, 2, device=device), torch.zeros(5, device=device), size=2, shuffle=True):
        assert rows.device.type == more.device.type == device.type


class Order:
    """Stands for an order on the CPU, and notes where it is sent."""

    def __init__(self, order):
        self.order, self.sent = order, []

    def to(self, device):
        self.sent.append(device)
        return self.order


@pytest.fixture
def order(monkeypatch):
    order = Order(torch.tensor([2, 0, 1]))
    monkeypatch.setattr(data_loading, "shuffled", lambda n, *seed: order)
    return order


def test_the_order_is_sent_to_the_tensors_once(order):
    tensor = torch.arange(3)
    assert [rows.tolist() for (rows,) in Batches(tensor, size=2, shuffle=True)] == [[2, 0], [1]]
    assert order.sent == [tensor.device]


def test_the_order_is_sent_to_the_groups(order):
    groups = torch.tensor([5, 6, 7])
    assert group_split(groups, 0.5)[1].tolist() == [0, 2]
    assert order.sent == [groups.device]


@pytest.mark.parametrize(
    ("sizes", "size", "got"),
    [
        ((3, 4), 2, "[(3, 'cpu'), (4, 'cpu')], 2"),
        ((3, 3), 0, "[(3, 'cpu'), (3, 'cpu')], 0"),
        ((3,), -1, "[(3, 'cpu')], -1"),
        ((), 2, "[], 2"),
    ],
)
def test_batches_refuse_unequal_rows_and_sizes_below_one(sizes, size, got):
    with pytest.raises(ValueError, match=f"^{re.escape(f'expected equal rows, size > 0, got {got}')}$"):
        Batches(*(torch.zeros(n) for n in sizes), size=size)


def test_batches_refuse_two_devices():
    with pytest.raises(ValueError, match=r"^expected equal rows, size > 0, got \[\(3, 'cpu'\), \(3, 'meta'\)\], 2$"):
        Batches(torch.zeros(3), torch.zeros(3, device="meta"), size=2)


def test_a_size_of_one_is_accepted():
    assert len(Batches(torch.zeros(3), size=1)) == 3


# floats and feeds


def test_floats_are_what_the_transforms_make():
    picture = torch.arange(256, dtype=torch.uint8).reshape(16, 16)
    steps = transforms.Compose([transforms.ToTensor(), transforms.Normalize(0.13, 0.31)])
    torch.testing.assert_close(floats(picture), steps(transforms.functional.to_pil_image(picture))[0])


@pytest.fixture
def mnist(tmp_path):
    """torchvision's data set over 130 pictures of noise, whose label is their number."""
    data = datasets.MNIST.__new__(datasets.MNIST)
    data.data = torch.randint(256, (130, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    data.targets = torch.arange(130)
    data.transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize(0.13, 0.31)])
    data.target_transform = None
    return data


@pytest.mark.parametrize(("n", "size", "sizes"), [(100, 64, [64, 36]), (130, 65, [65, 65])])
def test_all_feeds_give_the_same_pictures_each_once(mnist, n, size, sizes):
    ways = feeds(mnist, n, size, multiprocessing_context="fork")
    assert list(ways) == NAMES
    pixels = floats(mnist.data.unsqueeze(1))
    for name, way in ways.items():
        for _ in range(2):
            batches = list(way())
            assert [len(labels) for _, labels in batches] == sizes, name
            for pictures, labels in batches:
                torch.testing.assert_close(pictures, pixels[labels])
            order = torch.cat([labels for _, labels in batches]).tolist()
            assert sorted(order) == list(range(n)), name
            assert order != list(range(n)), name


def test_feeds_are_what_they_are_called(mnist):
    ways = feeds(mnist, 100, multiprocessing_context="fork")
    loader = ways["tensors, 2 workers"]()
    assert (loader.num_workers, loader.batch_size) == (2, 64)
    assert loader.multiprocessing_context.get_start_method() == "fork"
    assert [ways[name]().num_workers for name in NAMES[2:5]] == [0, 0, 0]
    assert isinstance(ways["lists of indices"]().sampler.sampler, RandomSampler)
    assert ways["lists of indices"]().batch_size is None
    assert isinstance(ways["__getitems__"]().dataset, Gather)
    assert ways["pictures, one by one"]().dataset.dataset is mnist
    assert type(ways["Batches"]()) is Batches


# seconds and compare


def busy(duration: float):
    """Use CPU time."""
    end = time.process_time() + duration
    while time.process_time() < end:
        pass


def test_seconds_count_this_process_but_no_sleep():
    start, wall = seconds(), time.perf_counter()
    busy(0.05)
    time.sleep(0.2)
    assert 0.05 <= seconds() - start < 0.15
    assert time.perf_counter() - wall > 0.2


def test_seconds_count_workers_that_have_ended():
    start = seconds()
    process = multiprocessing.get_context("fork").Process(target=busy, args=(0.2,))
    process.start()
    process.join()
    assert 0.17 <= seconds() - start < 0.5


def test_seconds_add_user_and_system_time_of_the_workers(monkeypatch):
    monkeypatch.setattr(data_loading.os, "times", lambda: (1.0, 2.0, 4.0, 8.0, 16.0))
    monkeypatch.setattr(data_loading.time, "process_time", lambda: 32.0)
    assert seconds() == 44.0


def test_compare_divides_each_round_and_goes_there_and_back(monkeypatch):
    now, calls = [0.0], []
    costs = {"slow": iter([6.0, 30.0, 8.0, 9.0]), "twice": iter([2.0, 3.0, 2.0, 4.0]), "unit": iter([1.0, 3.0, 1.0, 2.0])}

    def way(name):
        calls.append(name)
        for _ in range(2):
            yield
        now[0] += next(costs[name])

    monkeypatch.setattr(data_loading, "seconds", lambda: now[0])
    ratios = compare({name: lambda name=name: way(name) for name in costs}, rounds=4)
    there, back = ["slow", "twice", "unit"], ["unit", "twice", "slow"]
    assert calls == there + back + there + back
    assert list(ratios) == there
    # the rounds give 6, 10, 8, 4.5 and 2, 1, 2, 2
    assert ratios["slow"] == pytest.approx([4.875, 7.0, 9.5])
    assert ratios["twice"] == pytest.approx([1.25, 2.0, 2.0])
    assert ratios["unit"] == [1.0, 1.0, 1.0]


def test_compare_makes_five_rounds():
    calls = []
    compare({"only": lambda: busy_list(calls)})
    assert len(calls) == 5


def busy_list(calls):
    calls.append(1)
    busy(0.001)
    return []


def test_the_loader_over_tensors_costs_more_than_batches():
    tensors = pairs_of(2000)
    ratios = compare({
        "loader": lambda: DataLoader(TensorDataset(*tensors), 64, shuffle=True),
        "Batches": lambda: Batches(*tensors, size=64, shuffle=True),
    })
    low, middle, high = ratios["loader"]
    assert low <= middle <= high
    assert middle > 2


# group_split


@settings(max_examples=30, deadline=None)
@given(groups=st.lists(st.integers(-3, 8), min_size=2, max_size=60).filter(lambda g: len(set(g)) > 1),
       share=st.floats(0.01, 0.99), seed=SEEDS)
def test_group_split_keeps_groups_together(groups, share, seed):
    groups = torch.tensor(groups)
    train, test = group_split(groups, share, seed)
    assert sorted(torch.cat([train, test]).tolist()) == list(range(len(groups)))
    assert train.tolist() == sorted(train.tolist())
    assert test.tolist() == sorted(test.tolist())
    in_train, in_test = set(groups[train].tolist()), set(groups[test].tolist())
    assert in_train
    assert in_test
    assert not in_train & in_test
    largest = groups.unique(return_counts=True)[1].max().item()
    needed = math.ceil(share * len(groups))
    assert len(test) < needed + largest
    assert len(test) >= needed or len(in_train) == 1


@settings(max_examples=30, deadline=None)
@given(rows=st.integers(2, 40), seed=SEEDS, data=st.data())
def test_with_one_row_a_group_the_share_is_exact(rows, seed, data):
    count = data.draw(st.integers(1, rows - 1))
    _, test = group_split(torch.arange(rows), (count - 0.5) / rows, seed)
    assert sorted(test.tolist()) == sorted(shuffled(rows, seed)[:count].tolist())


def test_group_split_repeats_with_the_seed_and_starts_at_seed_0():
    groups = torch.arange(50).repeat_interleave(2)
    one, again, default, other = (group_split(groups, 0.3, *seed)[1] for seed in [(0,), (0,), (), (1,)])
    assert torch.equal(one, again)
    assert torch.equal(one, default)
    assert not torch.equal(one, other)


def test_every_group_is_tested_equally_often():
    counts = sum(torch.bincount(group_split(torch.arange(10), 0.2, seed)[1], minlength=10) for seed in range(500))
    assert counts.sum() == 1000
    assert (counts - 100).abs().max() < 5 * (500 * 0.2 * 0.8) ** 0.5


def test_the_last_group_stays_in_the_training():
    train, test = group_split(torch.tensor([0, 1]), 0.99)
    assert (len(train), len(test)) == (1, 1)


@pytest.mark.parametrize("share", [0, 1, -0.1, 1.5, float("nan")])
def test_group_split_refuses_shares_outside(share):
    with pytest.raises(ValueError, match=rf"^expected a row of groups, 0 < share < 1, got \(4,\), {share}$"):
        group_split(torch.arange(4), share)


@pytest.mark.parametrize("shape", [(), (2, 2)])
def test_group_split_refuses_other_shapes(shape):
    want = f"expected a row of groups, 0 < share < 1, got {shape}, 0.5"
    with pytest.raises(ValueError, match=f"^{re.escape(want)}$"):
        group_split(torch.zeros(shape), 0.5)


@pytest.mark.parametrize(("groups", "count"), [([3, 3, 3], 1), ([], 0)])
def test_group_split_refuses_fewer_than_two_groups(groups, count):
    with pytest.raises(ValueError, match=rf"^expected two groups or more, got {count}$"):
        group_split(torch.tensor(groups), 0.5)


# the script

LINES = re.compile(
    "".join(rf"{re.escape(f'{name:21}')} *\d+\.\d times \(\d+\.\d to \d+\.\d\)\n" for name in NAMES)
)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with the committed archives."""
    raw = tmp_path / "data" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for archive in (ROOT / "data" / "MNIST" / "raw").glob("*.gz"):
        os.symlink(archive, raw / archive.name)
    monkeypatch.chdir(tmp_path)


def test_main_prints_the_median_and_the_quartiles(folder, capsys, monkeypatch):
    seen = []

    def measured(ways):
        seen.append({name: list(way()) for name, way in ways.items()})
        return {name: [number, number + 0.25, 100 * number] for number, name in enumerate(ways)}

    monkeypatch.setattr(data_loading, "compare", measured)
    main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "pictures, one by one      0.2 times (0.0 to 0.0)"
    assert lines[6] == "Batches                   6.2 times (6.0 to 600.0)"
    assert len(lines) == 7
    (ways,) = seen
    one, last = (torch.cat([x for x, _ in ways[name]]) for name in (NAMES[0], NAMES[-1]))
    assert one.shape == last.shape == (2000, 1, 28, 28)
    torch.testing.assert_close(one.mean(), last.mean())
    torch.testing.assert_close(one.std(), last.std())


@pytest.mark.filterwarnings("ignore:.*found in sys.modules.*:RuntimeWarning")
def test_module_runs_as_a_script(folder, capsys):
    runpy.run_module("snippets.training.data_loading", run_name="__main__")
    assert LINES.fullmatch(capsys.readouterr().out)
