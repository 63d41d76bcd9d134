import json
import sys

import pytest
from tiny_models import PROSE

from core.activations import inspect


def run(capsys, *arguments):
    code = inspect.main(list(map(str, arguments)))
    captured = capsys.readouterr()
    assert captured.out.count("\n") == 1
    assert "progress: " in captured.err
    return code, json.loads(captured.out)


def test_a_models_facts_are_one_json_object(llama_folder, capsys, no_network):
    code, facts = run(capsys, "model", llama_folder)
    assert code == 0
    assert facts.pop("parameters") > 5_000
    assert facts == {
        "source": str(llama_folder),
        "revision": None,
        "title": "tiny-llama",
        "family": "llama",
        "hidden_dim": 16,
        "layers": 3,
        "hooks": ["resid_pre", "resid_post", "attn_out", "mlp_in", "mlp_out"],
        "context_size": 32,
        "vocab_size": 300,
        "bos_id": 0,
        "eos_id": 1,
        "dtype": "float32",
    }


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_data_sets_facts_are_one_json_object(jsonl_corpus, tmp_path, capsys, kind, no_network):
    source = jsonl_corpus
    if kind == "parquet":
        import pyarrow
        import pyarrow.parquet

        source = tmp_path / "prose.parquet"
        pyarrow.parquet.write_table(pyarrow.table({"id": list(range(len(PROSE))), "text": PROSE}), source)
    code, facts = run(capsys, "dataset", source)
    assert code == 0
    assert facts == {
        "source": str(source),
        "title": source.name,
        "format": kind,
        "pattern": None,
        "configuration": None,
        "split": None,
        "text_column": "text",
        "revision": None,
        "documents": len(PROSE),
        "size": source.stat().st_size,
        "sample": PROSE[0][:500],
    }


def test_a_folder_of_text_is_described(text_corpus, capsys):
    code, facts = run(capsys, "dataset", text_corpus, "--pattern", "part[01]/*.txt")
    assert code == 0
    assert (facts["format"], facts["documents"], facts["text_column"]) == ("text", 80, None)


def test_what_is_wrong_is_one_sentence_and_exit_code_1(tmp_path, capsys, monkeypatch):
    assert run(capsys, "model", tmp_path) == (
        1,
        {"error": f"'{tmp_path}' is no model folder: it has no config.json."},
    )
    code, answer = run(capsys, "dataset", tmp_path / "nothing")
    assert code == 1
    assert answer == {"error": f"There is no file or folder '{tmp_path / 'nothing'}'."}
    (tmp_path / "n.jsonl").write_text('{"n": 1}\n')
    assert run(capsys, "dataset", tmp_path / "n.jsonl")[1]["error"].endswith("has no column of text; it has n.")

    def surprise(*_, **__):
        raise RuntimeError("what\nnobody thought of")

    monkeypatch.setattr("core.activations.models.read_facts", surprise)
    assert run(capsys, "model", tmp_path) == (
        1,
        {"error": "It cannot be inspected: RuntimeError: what nobody thought of."},
    )


def test_what_a_library_prints_does_not_end_up_in_the_object(llama_folder, capsys, monkeypatch):
    from core.activations import models

    genuine = models.read_facts

    def chatty(*arguments, **options):
        print("hello from a library")
        sys.stdout.flush()
        return genuine(*arguments, **options)

    monkeypatch.setattr(models, "read_facts", chatty)
    assert run(capsys, "model", llama_folder)[0] == 0
