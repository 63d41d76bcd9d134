"""Models and data sets of a hub, by their ids: the same code as for any path, against a hub of our own."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from small_hub import COMMIT, small_hub
from tiny_models import CONTEXT, PROSE


@pytest.fixture
def hub(tmp_path, llama_folder):
    shutil.copytree(llama_folder, tmp_path / "hub/models/owner/tiny")
    shutil.copytree(llama_folder, tmp_path / "hub/models/owner/pickled")
    (tmp_path / "hub/models/owner/pickled/model.safetensors").rename(
        tmp_path / "hub/models/owner/pickled/pytorch_model.bin"
    )
    folder = tmp_path / "hub/datasets/owner/prose"
    folder.mkdir(parents=True)
    (folder / "train.jsonl").write_text("".join(json.dumps({"n": 1, "body": text}) + "\n" for text in PROSE * 4))
    with small_hub(tmp_path / "hub") as address:
        yield {
            **{
                name: value
                for name, value in os.environ.items()
                if "proxy" not in name.lower() and name != "HF_HUB_OFFLINE"
            },
            "HF_ENDPOINT": address,
            "HF_HOME": str(tmp_path / "home"),
            "HF_HUB_DISABLE_XET": "1",
            "OMP_NUM_THREADS": "1",
        }


def inspect(environment, *arguments):
    done = subprocess.run(
        [sys.executable, "-m", "core.activations.inspect", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return json.loads(done.stdout)


@pytest.mark.slow
def test_a_data_set_of_the_hub_is_pinned_to_its_commit(hub):
    facts = inspect(hub, "dataset", "owner/prose")
    assert (facts["format"], facts["revision"], facts["text_column"]) == ("hub", COMMIT, "body")
    assert facts["sample"] in [text[:500] for text in PROSE]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["dataset", "owner/nothing"], "was not found: it is no local path, and the hub does not know it"),
        (["dataset", "owner/prose", "--split=validation"], "Available splits: ['train']"),
        (["dataset", "owner/prose", "--text-column=text"], "has no column 'text'; it has n, body"),
        (["model", "owner/nothing"], "was not found: it is no local path, and the hub does not know it"),
        (["model", "owner/pickled"], "has no safetensors weights"),
    ],
)
@pytest.mark.slow
def test_what_is_wrong_on_the_hub_is_one_sentence(hub, arguments, sentence):
    answer = inspect(hub, *arguments)
    assert list(answer) == ["error"]
    assert sentence in answer["error"]


@pytest.mark.slow
def test_a_model_and_a_data_set_of_the_hub_are_read_like_local_ones_and_the_model_offline_too(
    hub, llama_folder, tmp_path
):
    code = f"""
import json, sys
from pathlib import Path
from core.activations.buffer import ActivationBuffer
from core.activations.models import load_model
from core.activations.reading import ActivationReader
from core.activations.tokens import open_rows
from events.catalog import DatasetRegistered
source, entry, cache = sys.argv[1], sys.argv[2], Path(sys.argv[3])
lm = load_model(source, device="cpu")
entries = [DatasetRegistered(dataset_id="x", source=entry, format="jsonl" if Path(entry).exists() else "hub")]
rows = open_rows(lm, entries, split="train", context_size={CONTEXT}, cache=cache)
buffer = ActivationBuffer(ActivationReader(lm, rows, [(1, "resid_post")]), batch_size=64, total_tokens=640, data_seed=0)
print(json.dumps([lm.facts.revision, [buffer.next_batch()[1, "resid_post"].sum().item() for _ in range(10)]]))
"""

    def run(environment, source, entry):
        cache = tmp_path / f"tokens-{len(list(tmp_path.iterdir()))}"
        command = [sys.executable, "-c", code, source, str(entry), str(cache)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    file = tmp_path / "hub/datasets/owner/prose/train.jsonl"
    from_hub = run(hub, "owner/tiny", "owner/prose")
    assert from_hub[0] == COMMIT
    assert run(hub, str(llama_folder), file) == [None, from_hub[1]]
    unreachable = {**hub, "HF_ENDPOINT": "http://127.0.0.1:9"}
    assert run(unreachable, "owner/tiny", file) == from_hub
    assert Path(hub["HF_HOME"]).is_dir()
