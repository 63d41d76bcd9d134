"""A data directory with a server, and one without."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_harness import Cli, write_corpus


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cli]:
    """A data directory with a server that all tests of commands share."""
    cli = Cli(tmp_path_factory.mktemp("served"))
    with cli.up():
        yield cli


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[Cli]:
    """An empty data directory without a server."""
    cli = Cli(tmp_path / "data")
    yield cli
    cli.close()


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text to train on."""
    return write_corpus(tmp_path_factory.mktemp("corpus") / "text.txt")
