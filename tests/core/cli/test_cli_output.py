"""Figures, times and sizes as a person reads them; where a server is looked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.api import ServerUnreachable, find_address
from core.cli import output


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "–"),
        (float("nan"), "–"),
        (float("inf"), "–"),
        (0.0, "0.00"),
        (0.13049, "0.130"),
        (16.0, "16.0"),
        (123.4, "123"),
        (1234.5, "1,234"),
        (12, "12"),
        (1_187_840, "1,187,840"),
        (-0.5, "-0.500"),
    ],
)
def test_a_figure_has_three_significant_digits(value: float | None, shown: str) -> None:
    assert output.number(value) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0.4, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 0 s"),
        (3_599, "59 min 59 s"),
        (3_660, "1 h 1 min"),
        (90_000, "1 d 1 h"),
    ],
)
def test_a_duration_has_two_units(seconds: float, shown: str) -> None:
    assert output.duration(seconds) == shown


@pytest.mark.parametrize(
    ("count", "shown"),
    [(0, "0 B"), (999, "999 B"), (1_500, "1.5 kB"), (25_300_000_000, "25.3 GB"), (4e15, "4000.0 TB")],
)
def test_a_size_is_in_powers_of_a_thousand(count: float, shown: str) -> None:
    assert output.size(count) == shown


def server_file(folder: Path, token: str | None) -> None:
    if token is not None:
        (folder / "token").write_text(token + "\n")
    (folder / "server.json").write_text(
        f'{{"url": "http://127.0.0.1:8420", "pid": 1, "log_id": "x", "token_file": "{folder / "token"}"}}'
    )


def test_the_data_directory_names_its_server_and_the_token_for_it(tmp_path: Path) -> None:
    assert find_address(tmp_path, environ={}) is None
    server_file(tmp_path, "secret")
    found = find_address(tmp_path, environ={})
    assert found is not None
    assert (found.url, found.token) == ("http://127.0.0.1:8420", "secret")


def test_a_token_from_a_file_wins_over_the_environment_and_that_over_the_data_directory(tmp_path: Path) -> None:
    server_file(tmp_path, "of the directory")
    (tmp_path / "mine").write_text("of the file\n")
    environ = {"SAESTUDIO_TOKEN": "of the environment"}
    tokens = [
        find_address(tmp_path, environ={}),
        find_address(tmp_path, environ=environ),
        find_address(tmp_path, environ=environ, token_file=tmp_path / "mine"),
    ]
    assert [found and found.token for found in tokens] == ["of the directory", "of the environment", "of the file"]


def test_the_data_directorys_token_is_not_shown_to_a_server_elsewhere(tmp_path: Path) -> None:
    server_file(tmp_path, "secret")
    found = find_address(tmp_path, server="https://elsewhere.example/studio/", environ={})
    assert found is not None
    assert (found.url, found.token) == ("https://elsewhere.example/studio", None)


@pytest.mark.parametrize("content", [None, "", " \n"])
def test_a_token_file_without_a_token_is_refused(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "mine"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ServerUnreachable, match=str(file)):
        find_address(tmp_path, server="http://127.0.0.1:1", token_file=file, environ={})


def test_a_server_that_is_no_url_is_refused_with_an_example(tmp_path: Path) -> None:
    with pytest.raises(ServerUnreachable, match="must be a URL such as"):
        find_address(tmp_path, server="localhost:8420", environ={})
