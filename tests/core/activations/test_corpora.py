import json
import logging

import pyarrow
import pyarrow.parquet
import pytest
from tiny_models import PROSE

from core.activations.corpora import CorpusError, open_corpus
from events.catalog import DatasetRegistered


def entry(source, kind="text", **more):
    return DatasetRegistered(dataset_id="x", source=str(source), format=kind, **more)


def texts(corpus, split="train"):
    return [document.text for document in corpus.documents(split)]


@pytest.fixture
def parquet_corpus(tmp_path):
    path = tmp_path / "prose.parquet"
    table = pyarrow.table({"n": list(range(len(PROSE))), "body": PROSE})
    pyarrow.parquet.write_table(table, path, row_group_size=7)
    return path


def test_the_splits_share_nothing_and_together_hold_everything(text_corpus, jsonl_corpus, parquet_corpus):
    for corpus in (
        open_corpus(entry(text_corpus)),
        open_corpus(entry(jsonl_corpus, "jsonl")),
        open_corpus(entry(parquet_corpus, "parquet")),
    ):
        train, held_out = texts(corpus), texts(corpus, "held-out")
        assert sorted(train + held_out) == sorted(PROSE)
        assert len(held_out) == round(0.05 * len(PROSE))


def test_the_same_documents_come_in_the_same_order_every_time(text_corpus, jsonl_corpus):
    for chosen in (entry(text_corpus), entry(jsonl_corpus, "jsonl")):
        first, second = open_corpus(chosen), open_corpus(chosen)
        assert list(first.documents("train")) == list(second.documents("train"))
        assert first.fingerprint == second.fingerprint


def test_reading_from_the_middle_gives_the_rest(text_corpus, jsonl_corpus, parquet_corpus):
    for chosen in (entry(text_corpus), entry(jsonl_corpus, "jsonl"), entry(parquet_corpus, "parquet")):
        corpus = open_corpus(chosen)
        everything = list(corpus.documents("train"))
        start = everything[len(everything) // 2].index
        assert list(corpus.documents("train", start)) == everything[len(everything) // 2 :]


def test_local_files_are_read_without_a_network_call(text_corpus, jsonl_corpus, parquet_corpus, no_network):
    for source, kind in ((text_corpus, "text"), (jsonl_corpus, "jsonl"), (parquet_corpus, "parquet")):
        assert texts(open_corpus(entry(source, kind)))


def test_a_large_corpus_is_split_by_a_hash_that_does_not_move_when_it_grows(tmp_path):
    for count in (800, 1000):
        (tmp_path / f"{count}.jsonl").write_text(
            "".join(json.dumps({"text": f"document {i}"}) + "\n" for i in range(count))
        )
    small = texts(open_corpus(entry(tmp_path / "800.jsonl", "jsonl")), "held-out")
    large = texts(open_corpus(entry(tmp_path / "1000.jsonl", "jsonl")), "held-out")
    assert large[: len(small)] == small
    assert 0.03 < len(large) / 1000 < 0.07


def test_any_change_of_the_text_changes_the_fingerprint(tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "a.txt").write_text("one")
    (folder / "b.txt").write_text("two")
    seen = {open_corpus(entry(folder)).fingerprint}
    (folder / "b.txt").write_text("owt")
    seen.add(open_corpus(entry(folder)).fingerprint)
    (folder / "b.txt").rename(folder / "c.txt")
    seen.add(open_corpus(entry(folder)).fingerprint)
    (folder / "d.txt").write_text("four")
    seen.add(open_corpus(entry(folder)).fingerprint)
    seen.add(open_corpus(entry(folder, pattern="[abc].txt")).fingerprint)
    assert len(seen) == 4  # the last one names exactly the files of the third
    (folder / "d.txt").unlink()
    assert open_corpus(entry(folder)).fingerprint in seen


def test_a_pattern_takes_files_in_and_out(tmp_path):
    for name in ("a.py", "b.txt", "sub/c.py", "sub/tests/d.py", "tests/e.py"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    corpus = open_corpus(entry(tmp_path, pattern="**/*.py, !**/tests/**/*"))
    assert sorted(texts(corpus) + texts(corpus, "held-out")) == ["a.py", "sub/c.py"]


def test_files_that_are_no_text_are_skipped_counted_and_logged_once(text_corpus, tmp_path, caplog):
    (tmp_path / "good.txt").write_text("good")
    (tmp_path / "also.txt").write_text("good too")
    (tmp_path / "latin.txt").write_bytes("gruß".encode("latin-1"))
    (tmp_path / "binary.txt").write_bytes(b"a\0b")
    (tmp_path / "empty.txt").write_text("")
    corpus = open_corpus(entry(tmp_path))
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert sorted(texts(corpus) + texts(corpus, "held-out")) == ["good", "good too"]
    assert corpus.skipped == 3
    assert sum(int(record.args[1]) for record in caplog.records) == 3
    assert "no usable text" in caplog.text


def test_rows_without_text_are_skipped_and_counted(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in ["a", None, "", "b", "c"]))
    corpus = open_corpus(entry(path, "jsonl"))
    assert sorted(texts(corpus) + texts(corpus, "held-out")) == ["a", "b", "c"]
    assert corpus.skipped == 2


def test_one_large_file_is_cut_at_line_ends_without_losing_a_character(tmp_path):
    lines = [f"{i}: {'ä' * (i % 70)}\n" for i in range(4000)]
    path = tmp_path / "book.txt"
    path.write_text("".join(lines), encoding="utf-8")
    corpus = open_corpus(entry(path))
    documents = sorted([*corpus.documents("train"), *corpus.documents("held-out")], key=lambda d: d.index)
    assert len(documents) > 50
    assert "".join(document.text for document in documents) == "".join(lines)
    assert all(document.text.endswith("\n") for document in documents)
    assert texts(corpus, "held-out")


@pytest.mark.parametrize("letter", ["ä", "字", "x", "x y "])
def test_a_file_without_line_ends_is_cut_between_characters(tmp_path, letter):
    text = letter * 150_000
    path = tmp_path / "line.txt"
    path.write_text(text, encoding="utf-8")
    corpus = open_corpus(entry(path))
    documents = sorted([*corpus.documents("train"), *corpus.documents("held-out")], key=lambda d: d.index)
    assert len(documents) > 50
    assert "".join(document.text for document in documents) == text


def test_the_column_of_text_is_found_or_named(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"id": 1, "title": "t", "body": "b"}) + "\n")
    assert texts(open_corpus(entry(path, "jsonl"))) == ["t"]
    assert texts(open_corpus(entry(path, "jsonl", text_column="body"))) == ["b"]
    with pytest.raises(CorpusError, match="has no column 'text'; it has id, title, body"):
        open_corpus(entry(path, "jsonl", text_column="text"))


def test_a_corpus_without_text_is_refused(tmp_path):
    (tmp_path / "numbers.jsonl").write_text('{"n": 1}\n')
    (tmp_path / "broken.jsonl").write_text('{"text": "a"}\n{"text": \n')
    with pytest.raises(CorpusError, match="has no column of text; it has n"):
        open_corpus(entry(tmp_path / "numbers.jsonl", "jsonl"))
    with pytest.raises(CorpusError, match="cannot be read") as caught:
        texts(open_corpus(entry(tmp_path / "broken.jsonl", "jsonl")))
    assert "\n" not in str(caught.value)
    with pytest.raises(CorpusError, match=r"There is no file or folder '/no/such\.txt'"):
        open_corpus(entry("/no/such.txt"))
    with pytest.raises(CorpusError, match=r"holds no file that matches '\*\*/\*\.rs'"):
        open_corpus(entry(tmp_path, pattern="**/*.rs"))


def test_several_files_of_rows_are_one_corpus_whatever_their_folder_is_called(tmp_path):
    folder = tmp_path / "a [strange] folder*"
    folder.mkdir()
    for name in ("b", "a"):
        (folder / f"{name}.jsonl").write_text(json.dumps({"text": name}) + "\n")
    corpus = open_corpus(entry(folder, "jsonl", pattern="*.jsonl"))
    documents = sorted([*corpus.documents("train"), *corpus.documents("held-out")], key=lambda d: d.index)
    assert [document.text for document in documents] == ["a", "b"]


def test_an_unreachable_hub_is_said_at_once(monkeypatch):
    monkeypatch.setattr("core.activations.corpora.offline", lambda: True)
    with pytest.raises(CorpusError, match="the hub cannot be reached from this machine"):
        open_corpus(entry("nobody-at-all/no-such-dataset", "hub"))
