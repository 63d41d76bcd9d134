"""Stored rows are served as promised: each as often, shuffled or in order, and the same after a resume."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from stored_folders import make_folder
from torch import Tensor

from core.activations import sources, stored_source
from core.activations.statistics import measure
from core.activations.stored import open_folder
from core.activations.stored_source import FileOrder, StoredPasses, shuffled, stored_capacity

X, T = (0, "mlp_in"), (0, "mlp_out")
CPU = torch.device("cpu")
BATCH = 32


def source(folder: Path, *, shuffle: bool = True, total: int = 60 * BATCH, pairs=(X,), seed: int = 5, block=None):
    rows = open_folder(folder)
    if not shuffle:
        return FileOrder(rows, pairs, CPU, batch_size=BATCH)
    passes = StoredPasses(rows, pairs, CPU, seed, block)
    return shuffled(passes, rows.facts, batch_size=BATCH, total_tokens=total, data_seed=seed)


def in_some_order(values: Tensor) -> list[tuple[float, ...]]:
    return sorted(map(tuple, values.float().tolist()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_epoch_serves_every_row_that_is_not_held_out_once(tmp_path: Path, dtype: torch.dtype) -> None:
    x, t = make_folder(tmp_path, [500, 511], target_width=5, dtype=dtype)
    assert t is not None
    total = 30 * BATCH
    held = open_folder(tmp_path).facts.held_out
    assert total == len(x) - held - 1
    buffer = source(tmp_path, total=total, pairs=(X, T), block=64)
    served = [buffer.next_batch() for _ in range(30)]
    assert served[0][X].dtype == dtype
    rows = torch.cat([torch.cat([batch[X], batch[T]], dim=1) for batch in served])
    known = set(in_some_order(torch.cat([x, t], dim=1)[:-held]))
    found = in_some_order(rows)
    # Row i of x and of t is the same row; one row of the epoch is still to come.
    assert len(set(found)) == len(found) == total
    assert set(found) < known


def test_several_epochs_serve_every_row_as_often(tmp_path: Path) -> None:
    make_folder(tmp_path, [101])
    buffer = source(tmp_path, total=9 * BATCH, block=7)
    served = in_some_order(torch.cat([buffer.next_batch()[X] for _ in range(9)]))
    counts = {row: served.count(row) for row in served}
    assert (len(counts), set(counts.values())) == (96, {3})


def test_neighbours_in_a_file_are_apart_unless_the_order_of_the_files_is_asked_for(tmp_path: Path) -> None:
    x, _ = make_folder(tmp_path, [700, 1_300])
    place = {tuple(row): number for number, row in enumerate(x.tolist())}
    batch = [place[tuple(row)] for row in source(tmp_path, block=50).next_batch()[X].tolist()]
    assert max(batch) - min(batch) > 500
    in_order = source(tmp_path, shuffle=False)
    for number in range(59):
        assert torch.equal(in_order.next_batch()[X], x[number * BATCH : (number + 1) * BATCH])
    # 1,900 rows are not held out: the first come again after the last.
    assert torch.equal(in_order.next_batch()[X], torch.cat([x[59 * BATCH : 1_900], x[: 60 * BATCH - 1_900]]))


@settings(max_examples=25)
@given(shuffle=st.booleans(), step=st.integers(0, 39), again=st.integers(0, 39), rows=st.integers(70, 900))
def test_a_restored_source_goes_on_bit_by_bit(
    shuffle: bool, step: int, again: int, rows: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("stored")
    make_folder(folder, [rows // 3, rows - rows // 3], width=4)

    def make():
        return source(folder, shuffle=shuffle, total=40 * BATCH, block=16)

    whole = make()
    expected = [whole.next_batch()[X] for _ in range(40)]
    first = make()
    for _ in range(step):
        first.next_batch()
    second = make()
    second.restore(json.loads(json.dumps(first.state())))
    assert len(json.dumps(first.state())) < 1_000
    for number in range(step, min(40, step + again)):
        assert torch.equal(second.next_batch()[X], expected[number])
    third = make()
    third.restore(json.loads(json.dumps(second.state())))
    for number in range(min(40, step + again), 40):
        assert torch.equal(third.next_batch()[X], expected[number])


def test_a_state_without_its_place_would_go_on_elsewhere(tmp_path: Path) -> None:
    make_folder(tmp_path)
    for shuffle, place in ((True, "tokens_served"), (False, "rows_served")):
        whole = source(tmp_path, shuffle=shuffle)
        for _ in range(10):
            whole.next_batch()
        lost = source(tmp_path, shuffle=shuffle)
        lost.restore({**whole.state(), place: 0, **({"oldest_pass": [0, 0]} if shuffle else {})})
        assert not torch.equal(lost.next_batch()[X], whole.next_batch()[X])


def test_the_order_follows_from_the_seed_alone(tmp_path: Path) -> None:
    make_folder(tmp_path)
    before = torch.get_rng_state()
    first, other = (source(tmp_path, seed=seed, block=20).next_batch()[X] for seed in (5, 6))
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    assert torch.equal(source(tmp_path, seed=5, block=20).next_batch()[X], first)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("shuffle", [True, False])
def test_a_state_of_other_files_is_refused(tmp_path: Path, shuffle: bool) -> None:
    make_folder(tmp_path)
    state = source(tmp_path, shuffle=shuffle).state()
    (tmp_path / "part-4.safetensors").unlink()
    with pytest.raises(ValueError, match=r"cannot be resumed: its data was .* and is .* now"):
        source(tmp_path, shuffle=shuffle).restore(state)


def test_the_buffer_of_wide_rows_is_bounded_in_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_folder(tmp_path)
    facts = open_folder(tmp_path).facts
    assert stored_capacity(facts, 10**9, 4_096) == 1 << 19
    monkeypatch.setattr(stored_source, "BUFFER_BYTES", 1 << 20)
    assert facts.row_bytes == 64
    assert stored_capacity(facts, 10**9, 1_024) == (1 << 20) // 64
    assert stored_capacity(facts, 10**9, 4_096 * 16) == 2 * 4_096 * 16
    assert sources.BUFFER_BYTES > 1 << 20


def test_statistics_are_of_rows_from_everywhere_in_the_folder(tmp_path: Path) -> None:
    x, _ = make_folder(tmp_path, [400, 600])
    passes = StoredPasses(open_folder(tmp_path), (X,), CPU, 0, 100)
    found = measure(passes, total_tokens=10**9)[X]
    rows = x[:950].double()
    assert found.tokens == 950
    torch.testing.assert_close(found.mean.double(), rows.mean(0), atol=1e-5, rtol=1e-5)
    assert found.variance == pytest.approx(float((rows - rows.mean(0)).square().sum(1).mean()), rel=1e-5)
