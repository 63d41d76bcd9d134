import json
import random
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch
from tiny_models import CONTEXT

from core.activations.buffer import ActivationBuffer, buffer_capacity
from core.activations.hooks import capture
from core.activations.models import load_model
from core.activations.reading import ActivationReader
from core.activations.tokens import open_rows
from events.catalog import DatasetRegistered

PAIRS = [(0, "resid_pre"), (1, "mlp_out"), (1, "resid_post")]
BATCH = 64


@pytest.fixture(scope="module")
def lm(llama_folder):
    return load_model(str(llama_folder), device="cpu")


@pytest.fixture(scope="module")
def rows(lm, jsonl_corpus, tmp_path_factory):
    entry = DatasetRegistered(dataset_id="prose", source=str(jsonl_corpus), format="jsonl")
    cache = tmp_path_factory.mktemp("tokens")
    return open_rows(lm, [entry], split="train", context_size=CONTEXT, cache=cache)


def make(lm, rows, *, total=40 * BATCH, **more):
    settings = {"batch_size": BATCH, "total_tokens": total, "data_seed": 5, **more}
    return ActivationBuffer(ActivationReader(lm, rows, PAIRS, settings.pop("rows_per_pass", 4)), **settings)


def first_kept(lm, rows, count, rows_per_pass=4):
    """The activations of the first `count` kept tokens of the text, in order, pass by pass."""
    found = {pair: [] for pair in PAIRS}
    number = 0
    while sum(map(len, found[PAIRS[0]])) < count:
        some = rows.rows(number * rows_per_pass, rows_per_pass)
        number += 1
        kept = rows.kept(some)
        for pair, values in capture(lm, some, PAIRS).items():
            found[pair].append(values[kept])
    return {pair: torch.cat(values)[:count] for pair, values in found.items()}


def in_some_order(values):
    return sorted(map(tuple, values.tolist()))


def recording(method, calls):
    def recorded(self, number):
        calls.append(number)
        return method(self, number)

    return recorded


@pytest.mark.parametrize("batches", [1, 2, 3, 8, 9, 13, 40])
def test_every_token_of_the_budget_is_served_exactly_once(lm, rows, batches):
    buffer = make(lm, rows, total=batches * BATCH)
    served = [buffer.next_batch() for _ in range(batches)]
    expected = first_kept(lm, rows, batches * BATCH)
    for pair in PAIRS:
        assert all(batch[pair].shape == (BATCH, 16) for batch in served)
        assert in_some_order(torch.cat([batch[pair] for batch in served])) == in_some_order(expected[pair])
    with pytest.raises(RuntimeError, match=f"All {batches * BATCH} tokens have been served"):
        buffer.next_batch()


def test_neither_bos_nor_eos_is_ever_served(lm, rows):
    # At the first hook an activation is the token's embedding, which tells which token it is.
    embedding = lm.model.get_input_embeddings().weight.detach()
    ids = rows.rows(0, 64)
    special = [lm.facts.bos_id, lm.facts.eos_id]
    assert all(bool((ids == one).any()) for one in special)
    buffer = make(lm, rows)
    served = torch.cat([buffer.next_batch()[PAIRS[0]] for _ in range(40)])
    distance = torch.cdist(served, embedding, compute_mode="donot_use_mm_for_euclid_dist")
    assert float(distance.min(dim=1).values.max()) == 0.0
    assert float(distance[:, special].min()) > 0.0


@pytest.mark.slow
def test_row_i_of_every_pair_is_the_same_token(lm, rows):
    buffer = make(lm, rows)
    expected = first_kept(lm, rows, 40 * BATCH)
    # A token's first activation tells which one it is, as far as two tokens do not share it.
    known = {}
    for i, key in enumerate(map(tuple, expected[PAIRS[0]].tolist())):
        known.setdefault(key, []).append(i)
    for _ in range(40):
        batch = buffer.next_batch()
        for row, key in enumerate(map(tuple, batch[PAIRS[0]].tolist())):
            matches = [
                i for i in known[key] if all(torch.equal(batch[pair][row], expected[pair][i]) for pair in PAIRS[1:])
            ]
            assert matches


def test_neighbours_of_the_text_are_apart(lm, rows):
    buffer = make(lm, rows)
    expected = first_kept(lm, rows, 40 * BATCH)[PAIRS[2]]
    place = {tuple(value): i for i, value in enumerate(expected.tolist())}
    batch = [place[tuple(value)] for value in buffer.next_batch()[PAIRS[2]].tolist()]
    assert max(batch) - min(batch) > buffer.capacity / 2
    assert sum(abs(a - b) == 1 for a, b in pairwise(batch)) < 5


def test_no_token_waits_forever(lm, rows):
    buffer = make(lm, rows, total=60 * BATCH, capacity=4 * BATCH)
    expected = list(map(tuple, first_kept(lm, rows, 60 * BATCH)[PAIRS[2]].tolist()))
    seen = Counter(expected)
    place = {value: i for i, value in enumerate(expected) if seen[value] == 1}
    for step in range(50):
        served = map(tuple, buffer.next_batch()[PAIRS[2]].tolist())
        batch = [place[value] for value in served if value in place]
        assert len(batch) > BATCH / 2
        assert min(batch) >= (step - 30) * BATCH
        assert max(batch) < (step + 5) * BATCH


def test_the_order_follows_from_the_seed_and_from_no_global_generator(lm, rows):
    def batches(seed, disturb):
        buffer = make(lm, rows, data_seed=seed)
        found = []
        for _ in range(12):
            if disturb:
                torch.rand(3)
                np.random.rand(3)
                random.random()
            found.append(buffer.next_batch()[PAIRS[0]])
        return torch.stack(found)

    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = batches(5, disturb=False)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(batches(5, disturb=True), first)
    assert not torch.equal(batches(6, disturb=False), first)


@pytest.mark.parametrize("total", [3, 13, 40, 41])
def test_a_restored_buffer_goes_on_bit_by_bit(lm, rows, total):
    buffer = make(lm, rows, total=total * BATCH)
    states = [json.dumps(buffer.state())]
    served = []
    for _ in range(total):
        served.append(buffer.next_batch())
        states.append(json.dumps(buffer.state()))
    for step in {0, 1, 2, total // 3, total // 2, total - 7, total - 2, total - 1} & set(range(total)):
        restored = make(lm, rows, total=total * BATCH)
        restored.restore(json.loads(states[step]))
        assert restored.tokens_served == step * BATCH
        for expected in served[step:]:
            found = restored.next_batch()
            for pair in PAIRS:
                assert torch.equal(found[pair], expected[pair])


def test_a_state_taken_after_restoring_restores_as_well(lm, rows):
    whole = make(lm, rows)
    expected = [whole.next_batch() for _ in range(30)][-1]
    buffer = make(lm, rows)
    for step in range(30):
        if step % 7 == 6:
            state = buffer.state()
            buffer = make(lm, rows)
            buffer.restore(json.loads(json.dumps(state)))
        batch = buffer.next_batch()
    assert all(torch.equal(batch[pair], expected[pair]) for pair in PAIRS)


def test_old_tokens_are_found_again_beyond_the_memory_of_the_replay(lm, rows, monkeypatch):
    monkeypatch.setattr("core.activations.buffer._MEMORY", 1)
    buffer = make(lm, rows, total=60 * BATCH, capacity=2 * BATCH)
    for _ in range(31):
        buffer.next_batch()
    restored = make(lm, rows, total=60 * BATCH, capacity=2 * BATCH)
    restored.restore(json.loads(json.dumps(buffer.state())))
    for _ in range(29):
        expected, found = buffer.next_batch(), restored.next_batch()
        assert all(torch.equal(found[pair], expected[pair]) for pair in PAIRS)


@pytest.mark.slow
def test_restoring_reads_only_what_is_still_needed(lm, rows, monkeypatch):
    settings = {"total": 400 * BATCH, "capacity": 16 * BATCH, "rows_per_pass": 1}
    buffer = make(lm, rows, **settings)
    for _ in range(300):
        buffer.next_batch()
    state = buffer.state()
    restored = make(lm, rows, **settings)
    read, counted = [], []
    reader = type(restored._reader)
    for name, calls in (("read", read), ("count", counted)):
        monkeypatch.setattr(reader, name, recording(getattr(reader, name), calls))
    restored.restore(state)
    assert counted[0] > 100
    assert len(read) < len(counted) < 16 * buffer.capacity / CONTEXT
    assert len(json.dumps(state)) < 1_000


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"data_seed": 6}, "data seed was 5 and is 6 now"),
        ({"total_tokens": 41 * BATCH}, "total tokens was 2560 and is 2624 now"),
        ({"batch_size": 32}, "batch size was 64 and is 32 now"),
    ],
)
def test_a_state_of_another_training_is_refused(lm, rows, change, sentence):
    state = make(lm, rows).state()
    with pytest.raises(ValueError, match=sentence):
        make(lm, rows, **{"capacity": 640, **change}).restore({**state, "capacity": 640})


def test_a_state_of_other_text_is_refused(lm, rows):
    state = make(lm, rows).state()
    with pytest.raises(ValueError, match=r"its data was .* and is .* now"):
        make(lm, rows).restore({**state, "data": "0" * 64})


def test_a_state_is_restored_with_the_shape_of_pass_that_it_was_taken_with(lm, rows):
    buffer = make(lm, rows, rows_per_pass=3, capacity=2 * BATCH)
    for _ in range(35):
        buffer.next_batch()
    assert buffer.state()["oldest_pass"] > [0, 0]
    restored = make(lm, rows, rows_per_pass=8, capacity=2 * BATCH)
    restored.restore(buffer.state())
    expected, found = buffer.next_batch(), restored.next_batch()
    assert all(torch.equal(found[pair], expected[pair]) for pair in PAIRS)


def test_batches_can_be_trained_on(lm, rows):
    batch = make(lm, rows).next_batch()[PAIRS[0]]
    weight = torch.randn(16, 4, requires_grad=True)
    (batch @ weight).square().mean().backward()
    assert weight.grad.abs().max() > 0


def test_batches_that_were_handed_out_do_not_change(lm, rows):
    buffer = make(lm, rows)
    batch = buffer.next_batch()
    copy = {pair: values.clone() for pair, values in batch.items()}
    for _ in range(20):
        buffer.next_batch()
    assert all(torch.equal(batch[pair], copy[pair]) for pair in PAIRS)


@pytest.mark.parametrize(
    ("total", "batch", "slots"),
    [
        (200_000_000, 4096, 1 << 19),
        (1_200_128, 2048, 299_008),
        (2048, 2048, 2048),
        (6144, 2048, 4096),
        (10_000_000, 1_000_000, 2_000_000),
    ],
)
def test_the_buffer_is_a_quarter_of_the_budget_in_whole_batches(total, batch, slots):
    assert buffer_capacity(total, batch) == slots


def test_a_total_of_broken_batches_is_refused(lm, rows):
    with pytest.raises(ValueError, match="not a whole number of batches of 64"):
        make(lm, rows, total=100)
