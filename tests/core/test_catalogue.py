import json
import subprocess
import sys
from pathlib import Path

import pytest

from core.catalogue import (
    BUILTIN_DATASETS,
    BUILTIN_MODELS,
    InspectionFailed,
    inspect_dataset,
    inspect_model,
    resolve_dataset,
    resolve_model,
)
from events.catalog import DatasetRegistered, ModelRegistered

(DEMO,) = BUILTIN_MODELS
(STDLIB,) = BUILTIN_DATASETS


@pytest.mark.slow
def test_the_demo_model_is_described_as_it_is_found_by_inspection():
    found = inspect_model(DEMO.source, model_id="demo")
    assert found == ModelRegistered(**{**_fields(DEMO), "title": found.title})
    assert (DEMO.hidden_dim, DEMO.layers, DEMO.context_size) == (128, 4, 128)


def test_the_demo_model_is_small_enough_to_ship_and_says_how_good_it_is():
    files = [path for path in Path(DEMO.source).iterdir() if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 8_000_000
    assert {path.name for path in files} >= {"config.json", "model.safetensors", "tokenizer.json", "README.md"}
    card = (Path(DEMO.source) / "README.md").read_text()
    loss = float(card.split("**held-out loss** | **")[1].split()[0])
    assert loss <= 3.6


@pytest.mark.slow
def test_the_standard_library_is_a_corpus_like_any_other():
    found = inspect_dataset(STDLIB.source, pattern=STDLIB.pattern, dataset_id="stdlib")
    assert (found.format, found.source, found.pattern) == ("text", STDLIB.source, STDLIB.pattern)
    assert found.documents is not None
    assert found.documents > 400
    assert found.size is not None
    assert found.size > 5_000_000


def test_a_reference_is_a_catalogue_id_then_a_path_then_a_hub_id(tmp_path, monkeypatch):
    mine = ModelRegistered(
        model_id="mine", source="owner/name", hidden_dim=8, layers=2, hooks=("resid_post",), context_size=16
    )
    assert resolve_model("demo", [mine]) is DEMO
    assert resolve_model(DEMO.source, [mine]) is DEMO
    assert resolve_model("mine", [mine]) is mine
    assert resolve_model("owner/name", [mine]) is mine
    assert resolve_model("somebody/else", [mine]) is None

    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.jsonl").write_text('{"text": "a"}\n')
    monkeypatch.chdir(tmp_path)
    known = DatasetRegistered(dataset_id="texts", source="owner/texts", format="hub")
    assert resolve_dataset("stdlib") is STDLIB
    assert resolve_dataset("texts", [known]) is known
    by_path = resolve_dataset("texts")
    assert (by_path.source, by_path.format, by_path.pattern) == (str(tmp_path / "texts"), "jsonl", "**/*.jsonl")
    assert resolve_dataset("owner/corpus").format == "hub"
    with pytest.raises(InspectionFailed, match=r"There is no file or folder '\./nothing'"):
        resolve_dataset("./nothing")


def test_a_registered_entry_comes_before_a_built_in_one_of_the_same_id():
    mine = ModelRegistered(**{**_fields(DEMO), "title": "mine"})
    assert resolve_model("demo", [mine]) is mine


@pytest.mark.slow
def test_what_cannot_be_inspected_is_said_in_one_sentence(tmp_path):
    (tmp_path / "numbers.jsonl").write_text('{"n": 1}\n')
    with pytest.raises(InspectionFailed, match="has no column of text; it has n"):
        inspect_dataset(str(tmp_path))
    with pytest.raises(InspectionFailed, match=r"took longer than 0\.01 seconds"):
        inspect_model(DEMO.source, timeout=0.01)


def test_the_catalogue_imports_no_machine_learning_library():
    code = "import core.catalogue, core.activations, sys; print(sorted({m.split('.')[0] for m in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stdout.replace("'", '"')))
    assert "core" in loaded
    assert not loaded & {"torch", "transformers", "datasets", "duckdb", "panel", "numpy"}


def _fields(entry):
    return {name: getattr(entry, name) for name in entry.__struct_fields__}
