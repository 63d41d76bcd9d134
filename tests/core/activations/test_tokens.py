import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from tiny_models import CONTEXT, PROSE, make_model, make_tokenizer

from core.activations import tokens
from core.activations.corpora import CorpusError
from core.activations.models import load_model
from core.activations.tokens import open_rows
from events.catalog import DatasetRegistered


@pytest.fixture(scope="module")
def gpt2(gpt2_folder):
    return load_model(str(gpt2_folder), device="cpu")


@pytest.fixture(scope="module")
def llama(llama_folder):
    return load_model(str(llama_folder), device="cpu")


@pytest.fixture
def entry(jsonl_corpus):
    return DatasetRegistered(dataset_id="prose", source=str(jsonl_corpus), format="jsonl")


@pytest.fixture
def small_shards(monkeypatch):
    """Shards of a few rows, so that a small corpus has several."""
    monkeypatch.setattr(tokens, "SHARD_TOKENS", 600)


def rows_of(lm, entries, cache, *, split="train", **more):
    entries = entries if isinstance(entries, list) else [entries]
    return open_rows(lm, entries, split=split, context_size=CONTEXT, cache=cache, **more)


def in_order(lm, entry, cache):
    """All rows of one epoch of the training split, in the order of the text."""
    rows = rows_of(lm, entry, cache)
    rows.available(10**9)
    source = rows._all[0]
    return np.concatenate([source._array(number) for number in range(len(source._shards))])


@pytest.mark.slow
def test_documents_are_joined_by_eos_and_cut_into_rows_without_special_tokens(gpt2, entry, tmp_path):
    held_out = {text for text in PROSE if text in documents(entry, "held-out")}
    tokenizer = make_tokenizer(bos=False)
    expected = []
    for text in PROSE:
        if text not in held_out:
            expected += [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]
    found = in_order(gpt2, entry, tmp_path)
    count = len(expected) // CONTEXT
    assert found.shape == (count, CONTEXT)
    assert found.flatten().tolist() == expected[: count * CONTEXT]


def documents(entry, split):
    from core.activations.corpora import open_corpus

    return [document.text for document in open_corpus(entry).documents(split)]


def test_a_model_with_bos_gets_it_at_the_start_of_every_row_and_nowhere_else(llama, entry, tmp_path):
    found = in_order(llama, entry, tmp_path)
    bos = llama.facts.bos_id
    assert (found[:, 0] == bos).all()
    assert (found[:, 1:] != bos).all()
    tokenizer = make_tokenizer(bos=True)
    expected = []
    for text in documents(entry, "train"):
        expected += [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    assert found[:, 1:].flatten().tolist() == expected[: found[:, 1:].size]


def test_tokens_are_left_out_by_id_and_the_first_position_where_there_is_no_bos(gpt2, llama, entry, tmp_path):
    for lm, first in ((gpt2, False), (llama, False)):
        rows = rows_of(lm, entry, tmp_path)
        some = rows.rows(0, 20)
        kept = rows.kept(some)
        special = {i for i in (lm.facts.bos_id, lm.facts.eos_id) if i is not None}
        expected = torch.tensor([[int(token) not in special for token in row] for row in some])
        expected[:, 0] = first
        assert torch.equal(kept, expected)
        assert not kept.all(dim=1).any()
        assert kept[:, 1:].float().mean() > 0.9


def test_a_special_token_spelled_out_in_a_text_is_text(llama, tmp_path):
    path = tmp_path / "evil.jsonl"
    path.write_text("".join(json.dumps({"text": f"{i} says <s> and </s> " * 20}) + "\n" for i in range(9)))
    entry = DatasetRegistered(dataset_id="evil", source=str(path), format="jsonl")
    found = in_order(llama, entry, tmp_path / "cache")
    assert (found[:, 1:] != llama.facts.bos_id).all()
    assert (found == llama.facts.eos_id).sum() <= 9


def test_a_tokenizer_without_eos_joins_documents_with_nothing(entry, tmp_path):
    lm = load_model(str(make_model(tmp_path / "bare", "gpt2", eos=False)), device="cpu")
    found = in_order(lm, entry, tmp_path / "cache")
    tokenizer = make_tokenizer(bos=False, eos=False)
    expected = [i for text in documents(entry, "train") for i in tokenizer(text)["input_ids"]]
    assert found.flatten().tolist() == expected[: found.size]
    rows = rows_of(lm, entry, tmp_path / "cache")
    assert rows.kept(rows.rows(0, 4))[:, 1:].all()


def test_rows_are_the_same_wherever_one_begins(gpt2, entry, tmp_path, small_shards):
    rows = rows_of(gpt2, entry, tmp_path, data_seed=3)
    total = rows.available(10**9)
    whole = rows.rows(0, 3 * total)
    again = rows_of(gpt2, entry, tmp_path, data_seed=3)
    assert torch.equal(again.rows(2 * total - 5, 11), whole[2 * total - 5 : 2 * total + 6])
    assert torch.equal(again.rows(0, 7), whole[:7])
    fresh = rows_of(gpt2, entry, tmp_path / "other", data_seed=3)
    assert torch.equal(fresh.rows(0, 3 * total), whole)


@pytest.mark.parametrize("shard_tokens", [600, tokens.SHARD_TOKENS])
def test_every_epoch_has_every_row_once_in_an_order_of_its_own(gpt2, entry, tmp_path, shard_tokens, monkeypatch):
    monkeypatch.setattr(tokens, "SHARD_TOKENS", shard_tokens)
    rows = rows_of(gpt2, entry, tmp_path)
    total = rows.available(10**9)
    assert (len(rows._all[0]._shards) > 2) == (shard_tokens == 600)
    expected = sorted(map(tuple, in_order(gpt2, entry, tmp_path).tolist()))
    epochs = [rows.rows(epoch * total, total).tolist() for epoch in range(3)]
    for epoch in epochs:
        assert sorted(map(tuple, epoch)) == expected
    assert epochs[0] != epochs[1] != epochs[2]
    assert [rows.epoch(row) for row in (0, total - 1, total, 2 * total)] == [0, 0, 1, 2]
    assert rows_of(gpt2, entry, tmp_path, data_seed=1).rows(0, total).tolist() != epochs[0]


def test_held_out_rows_never_come_in_training_and_keep_the_order_of_the_text(gpt2, entry, tmp_path):
    held_out = rows_of(gpt2, entry, tmp_path, split="held-out")
    count = held_out.available(10**9)
    assert count > 0
    tokenizer = make_tokenizer(bos=False)
    expected = []
    for text in documents(entry, "held-out"):
        expected += [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]
    assert held_out.rows(0, count).flatten().tolist() == expected[: count * CONTEXT]
    train = {tuple(row) for row in in_order(gpt2, entry, tmp_path).tolist()}
    assert not train & {tuple(row) for row in held_out.rows(0, count).tolist()}


def test_a_second_start_tokenises_nothing(gpt2, entry, tmp_path, small_shards, monkeypatch):
    first = rows_of(gpt2, entry, tmp_path)
    expected = first.rows(0, first.available(10**9))
    monkeypatch.setattr(tokens._StoredRows, "_tokenize", lambda *_: pytest.fail("tokenised again"))
    second = rows_of(gpt2, entry, tmp_path)
    assert torch.equal(second.rows(0, len(expected)), expected)
    assert second.fingerprint == first.fingerprint


def test_only_as_much_is_tokenised_as_is_read(gpt2, entry, tmp_path, small_shards, monkeypatch):
    monkeypatch.setattr(tokens._StoredRows, "_build_ahead", lambda *_: None)
    rows = rows_of(gpt2, entry, tmp_path)
    rows.rows(0, 2)
    assert len(rows._all[0]._shards) == 1
    rows.rows(2, rows._all[0]._ends[0])
    assert len(rows._all[0]._shards) == 2


def test_the_next_shard_is_made_ahead_and_is_the_same_as_one_made_on_demand(gpt2, entry, tmp_path, monkeypatch):
    monkeypatch.setattr(tokens, "SHARD_TOKENS", 600)
    rows = rows_of(gpt2, entry, tmp_path)
    first = rows.rows(0, 1)
    source = rows._all[0]
    started = []
    with monkeypatch.context() as patch:
        patch.setattr(tokens.threading, "Thread", lambda **_: started.append(1))
        rows.rows(0, 3)
    assert not started  # one attempt is enough
    with source._building:
        pass
    total = rows.available(10**9)
    assert torch.equal(rows_of(gpt2, entry, tmp_path / "other").rows(0, total), rows.rows(0, total))
    assert torch.equal(rows.rows(0, 1), first)


def test_a_torn_or_damaged_shard_is_made_again(gpt2, entry, tmp_path):
    rows = rows_of(gpt2, entry, tmp_path)
    expected = rows.rows(0, 10)
    (array,) = tmp_path.glob("*/shard-00000.npy")
    del rows
    array.write_bytes(array.read_bytes()[:200])
    assert torch.equal(rows_of(gpt2, entry, tmp_path).rows(0, 10), expected)
    np.save(array, np.zeros((3, CONTEXT), dtype=np.uint16))
    assert torch.equal(rows_of(gpt2, entry, tmp_path).rows(0, 10), expected)
    manifest = array.with_suffix(".json")
    manifest.write_text("{")
    assert torch.equal(rows_of(gpt2, entry, tmp_path).rows(0, 10), expected)
    assert not [path for path in array.parent.iterdir() if path.name.startswith(".")]


def test_other_text_another_tokenizer_and_another_context_do_not_share_tokens(gpt2, llama, entry, tmp_path):
    other = tmp_path / "other.jsonl"
    other.write_text("".join(json.dumps({"text": text + "!"}) + "\n" for text in PROSE))
    changed = DatasetRegistered(dataset_id="x", source=str(other), format="jsonl")
    found = {
        rows_of(gpt2, entry, tmp_path).fingerprint,
        rows_of(gpt2, changed, tmp_path).fingerprint,
        rows_of(llama, entry, tmp_path).fingerprint,
        rows_of(gpt2, entry, tmp_path, split="held-out").fingerprint,
        open_rows(gpt2, [entry], split="train", context_size=CONTEXT // 2, cache=tmp_path).fingerprint,
    }
    assert len(found) == 5


def test_the_fingerprint_is_the_same_after_use_and_after_loading_again(gpt2, gpt2_folder, entry, tmp_path):
    rows = rows_of(gpt2, entry, tmp_path)
    rows.rows(0, 3)
    assert rows_of(gpt2, entry, tmp_path).fingerprint == rows.fingerprint
    again = load_model(str(gpt2_folder), device="cpu")
    assert rows_of(again, entry, tmp_path).fingerprint == rows.fingerprint


@pytest.mark.slow
def test_the_fingerprint_is_the_same_in_another_process(gpt2, gpt2_folder, entry, tmp_path):
    rows = rows_of(gpt2, entry, tmp_path)
    code = f"""
from pathlib import Path
from core.activations.models import load_model
from core.activations.tokens import open_rows
from events.catalog import DatasetRegistered
entry = DatasetRegistered(dataset_id="prose", source={entry.source!r}, format="jsonl")
lm = load_model({str(gpt2_folder)!r}, device="cpu")
print(open_rows(lm, [entry], split="train", context_size={CONTEXT}, cache=Path({str(tmp_path)!r})).fingerprint)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.stdout.strip() == rows.fingerprint


def test_several_corpora_are_mixed_by_weight_in_an_order_that_can_be_entered_anywhere(gpt2, tmp_path):
    entries = []
    for letter in "abc":
        path = tmp_path / f"{letter}.jsonl"
        path.write_text("".join(json.dumps({"text": f"{letter}" * (30 + i)}) + "\n" for i in range(90)))
        entries.append(DatasetRegistered(dataset_id=letter, source=str(path), format="jsonl"))
    rows = rows_of(gpt2, entries, tmp_path, weights=[1, 2, 5])
    some = rows.rows(0, 2048)
    # Which corpus a row is from is told by its last token, which is a run of one letter.
    letters = [gpt2.tokenizer.decode(row).replace("</s>", "")[0] for row in some]
    shares = {letter: letters.count(letter) / len(letters) for letter in "abc"}
    assert shares == pytest.approx({"a": 1 / 8, "b": 2 / 8, "c": 5 / 8}, abs=0.005)
    assert len(set(letters[:40])) == 3
    alone = rows_of(gpt2, entries[0], tmp_path).rows(0, letters.count("a"))
    assert torch.equal(some[[letter == "a" for letter in letters]], alone)
    assert torch.equal(rows_of(gpt2, entries, tmp_path, weights=[1, 2, 5]).rows(1000, 60), some[1000:1060])
    other = rows_of(gpt2, entries, tmp_path, weights=[1, 2, 5], data_seed=9).rows(0, 200)
    assert not torch.equal(other, some[:200])


def test_a_corpus_too_small_to_hold_anything_out_does_not_keep_the_others_from_being_evaluated(gpt2, entry, tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "just the one document"}\n')
    small = DatasetRegistered(dataset_id="x", source=str(tmp_path / "a.jsonl"), format="jsonl")
    alone = rows_of(gpt2, entry, tmp_path, split="held-out")
    mixed = rows_of(gpt2, [small, entry], tmp_path, split="held-out")
    count = alone.available(10**9)
    assert mixed.available(10**9) == count
    assert torch.equal(mixed.rows(0, count), alone.rows(0, count))
    assert rows_of(gpt2, small, tmp_path, split="held-out").available(100) == 0


def test_a_corpus_too_small_for_one_row_is_named(gpt2, tmp_path):
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "b.txt").write_text("two")
    entry = DatasetRegistered(dataset_id="x", source=str(tmp_path), format="text", pattern="*.txt")
    with pytest.raises(CorpusError, match="too little text in its train split for one row of 32 tokens"):
        rows_of(gpt2, entry, tmp_path / "cache").rows(0, 1)


def test_a_context_that_the_model_does_not_have_is_refused(gpt2, entry, tmp_path):
    with pytest.raises(ValueError, match="between 2 and the model's 32 tokens, not 64"):
        open_rows(gpt2, [entry], split="train", context_size=64, cache=tmp_path)


def test_what_lies_on_disk_is_small_and_no_pickle(gpt2, entry, tmp_path):
    rows_of(gpt2, entry, tmp_path).rows(0, 1)
    (array,) = tmp_path.glob("*/shard-00000.npy")
    stored = np.load(array, allow_pickle=False)
    assert stored.dtype == np.uint16
    assert json.loads(array.with_suffix(".json").read_text())["rows"] == len(stored)
