"""`saestudio sql` and `replicate` on a real server."""

from __future__ import annotations

import csv
import io
import json
import signal
import subprocess
from pathlib import Path

import duckdb
import pyarrow.ipc
import pyarrow.parquet
import pytest
from cli_harness import PROGRAM, Cli, environment

pytestmark = pytest.mark.slow

MODELS = "SELECT type, count(*) AS n FROM events WHERE type = 'ModelRegistered' GROUP BY type"


def raw(cli: Cli, *arguments: str, text: str = "") -> subprocess.CompletedProcess[bytes]:
    """A command whose answer is bytes."""
    command = [*PROGRAM, *arguments, "--data-dir", str(cli.data_dir)]
    return subprocess.run(command, input=text.encode(), capture_output=True, env=environment(), timeout=60, check=False)


def test_a_question_is_printed_as_a_table_and_says_where_it_is_true(served: Cli) -> None:
    result = served("sql", MODELS)
    assert result.status == 0, result.err
    assert result.out.split() == ["type", "n", "ModelRegistered", "1"]
    assert "1 row, true at position" in result.err


def test_a_question_comes_in_every_format(served: Cli) -> None:
    answer = served("sql", MODELS, "--json").json()
    assert answer["data"] == [["ModelRegistered", 1]]
    assert [column["name"] for column in answer["columns"]] == ["type", "n"]
    found = raw(served, "sql", MODELS, "--format", "csv").stdout.decode()
    assert list(csv.reader(io.StringIO(found))) == [["type", "n"], ["ModelRegistered", "1"]]
    kept = raw(served, "sql", MODELS, "--format", "parquet").stdout
    expected = [{"type": "ModelRegistered", "n": 1}]
    assert pyarrow.parquet.read_table(io.BytesIO(kept)).to_pylist() == expected
    stream = raw(served, "sql", MODELS, "--format", "arrow").stdout
    with pyarrow.ipc.open_stream(stream) as reader:
        assert reader.read_all().to_pylist() == expected


def test_a_question_comes_from_standard_input_and_its_values_from_the_command_line(served: Cli) -> None:
    found = raw(served, "sql", "--json", "--set", "a=1", "--set", "b=it's", text="SELECT $a + 1, $b")
    assert json.loads(found.stdout)["data"] == [[2, "it's"]]
    assert served("sql", "SELECT 1", "--set", "a").err == "saestudio: --set must be NAME=VALUE, not 'a'.\n"


def test_what_is_wrong_with_a_question_is_one_sentence(served: Cli) -> None:
    result = served("sql", "SELECT los FROM metrics")
    assert (result.status, result.out) == (1, "")
    assert result.err.startswith("saestudio: Line 1, column 8: Binder Error: Referenced column")
    assert "There is nothing to answer" in served("sql", "").err
    assert "cast it to VARCHAR" in served("sql", "SELECT [1]", "--format", "csv").err
    for form in ("csv", "parquet"):
        result = served("sql", "SELECT INTERVAL 1 DAY AS waited", "--format", form)
        assert (result.status, result.out) == (1, "")
        assert "Column waited has intervals" in result.err
    late = "SELECT CAST(CASE WHEN i < 3000000 THEN '1' ELSE 'x' END AS INTEGER) FROM range(3000001) AS t(i)"
    result = served("sql", late, "--limit", "10000000")
    assert (result.status, result.out) == (1, "")
    assert "Could not convert string 'x'" in result.err
    cut = served("sql", "SELECT * FROM range(100)", "--limit", "7", "--json")
    assert cut.json()["rows"] == 7
    assert "Only the first 7 rows" in cut.err


def test_without_a_server_there_is_a_sentence_and_the_schema_needs_none(cli: Cli) -> None:
    assert "No server runs on" in cli("sql", "SELECT 1").err
    assert "No server runs on" in cli("replicate", "--db", "x.duckdb").err
    schema = cli("sql", "--schema")
    assert schema.status == 0
    assert "| `dead_latents` | BIGINT |" in schema.out


def test_a_replica_in_a_file_is_brought_up_to_date_and_followed(served: Cli, tmp_path: Path) -> None:
    file = tmp_path / "runs.duckdb"
    result = served("replicate", "--db", str(file), "--json")
    assert result.status == 0, result.err
    assert result.json()["position"] > 0
    with duckdb.connect(str(file), read_only=True) as con:
        assert con.execute("SELECT position FROM replica").fetchall() == [(result.json()["position"],)]
        # Somebody else reads it now.
        assert "cannot be" in served("replicate", "--db", str(file)).err
    # A replica that has something waits for its server, and not for ever.
    gone = served("replicate", "--db", str(file), "--server", "http://127.0.0.1:9")
    assert gone.status == 1
    assert "does not answer" in gone.err
    following = served.start("replicate", "--db", str(file), "--follow", "--json")
    assert following.stdout is not None
    following.stdout.readline()
    following.send_signal(signal.SIGINT)
    out, _ = following.communicate(timeout=60)
    assert json.loads(out)["position"] >= result.json()["position"]
    with duckdb.connect(str(file), read_only=True) as con:
        assert con.execute("SELECT count(*) > 0 FROM events").fetchall() == [(True,)]


def test_everything_is_exported_as_parquet_and_the_second_time_nothing(served: Cli, tmp_path: Path) -> None:
    first = served("export-data", "--to", str(tmp_path / "out"), "--json")
    assert first.status == 0, first.err
    again = served("export-data", "--to", str(tmp_path / "out"), "--json").json()
    assert again["position"] >= first.json()["position"]
    if again["position"] == first.json()["position"]:
        assert again["written"] == 0
    activity = pyarrow.parquet.read_table(tmp_path / "out" / "activity.parquet")
    assert "ModelRegistered" in activity["type"].to_pylist()
