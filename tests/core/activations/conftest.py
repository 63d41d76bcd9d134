"""Small models and corpora, made on the spot; and no network."""

import json
import socket
from pathlib import Path

import pytest
import torch
from tiny_models import PROSE, make_model


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def no_network(monkeypatch):
    """Fails a test in which anything was asked of the network, even where the asker would have got over it."""
    asked = []

    def refuse(*args, **_):
        asked.append(args)
        raise OSError("no network in this test")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    yield
    assert asked == []


@pytest.fixture(scope="session")
def gpt2_folder(tmp_path_factory) -> Path:
    return make_model(tmp_path_factory.mktemp("models") / "tiny-gpt2", "gpt2")


@pytest.fixture(scope="session")
def llama_folder(tmp_path_factory) -> Path:
    """Llama-shaped, with a tokenizer that has a BOS token."""
    return make_model(tmp_path_factory.mktemp("models") / "tiny-llama", "llama", bos=True)


@pytest.fixture(scope="session")
def jsonl_corpus(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "prose.jsonl"
    path.write_text("".join(json.dumps({"id": i, "text": text}) + "\n" for i, text in enumerate(PROSE)))
    return path


@pytest.fixture(scope="session")
def text_corpus(tmp_path_factory) -> Path:
    """A folder of text files, some in sub-folders."""
    folder = tmp_path_factory.mktemp("corpus") / "texts"
    for i, text in enumerate(PROSE):
        path = folder / f"part{i % 3}" / f"{i:03}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder
