"""The command `saestudio`.

Every command lives in a module of its own that is imported only when it runs, so that `--help` answers at once.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from core.settings import DEFAULT_DATA_DIR, DEFAULT_PORT

from .failure import Failure

_DATA_DIR = f"where trainings and their log lie (default: $SAESTUDIO_DATA_DIR, else ./{DEFAULT_DATA_DIR})"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status.

    0 is success, 1 a refusal or failure, 2 an invalid command line or configuration, 124 a time-out and 130 Ctrl-C.
    """
    try:
        try:
            return _run(_parser().parse_args(arguments))
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        # The reader (`| head`) has what it wanted; what is still buffered must not be flushed at it once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _run(options: argparse.Namespace) -> int:
    module, _, function = options.run.partition(":")
    try:
        return getattr(importlib.import_module(f"core.cli.{module}"), function)(options)
    except Failure as failure:
        print_failure(failure)
        return failure.status
    except KeyboardInterrupt:
        sys.stderr.write("\n")
        return 130


def print_failure(failure: Failure) -> None:
    """The failure's sentence and, one a line, what it is made of, on standard error."""
    sys.stderr.write(f"saestudio: {failure}\n")
    for problem in failure.problems:
        sys.stderr.write(f"  {problem}\n")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:  # type: ignore[override]
        self.exit(2, f"saestudio: {message[:1].upper()}{message[1:]}.\nTry '{self.prog} --help'.\n")


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object, **__: object) -> None:
        from importlib.metadata import version

        sys.stdout.write(f"saestudio {version('saestudio')}\n")
        parser.exit()


def _parser() -> argparse.ArgumentParser:
    data_dir = _Parser(add_help=False)
    data_dir.add_argument("--data-dir", type=Path, metavar="DIR", default=None, help=_DATA_DIR)
    as_json = _Parser(add_help=False)
    as_json.add_argument("--json", action="store_true", help="print JSON instead of text")
    client = _Parser(add_help=False, parents=[data_dir])
    client.add_argument("--server", metavar="URL", help="a server elsewhere (default: the data directory's own)")
    client.add_argument(
        "--token-file", type=Path, metavar="FILE", help="holds the server's token (default: $SAESTUDIO_TOKEN)"
    )

    parser = _Parser(
        prog="saestudio",
        description="Train sparse autoencoders on language-model activations, with every step kept in an event log.",
        epilog="'saestudio COMMAND --help' tells more about a command.",
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(name: str, run: str, text: str, *parents: _Parser) -> _Parser:
        added = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.", parents=parents)
        added.set_defaults(run=run)
        return added

    up = command("up", "server:up", "start the server with its dashboard", data_dir, as_json)
    _serving(up)
    up.add_argument("--host", default="127.0.0.1", help="address to listen on; beyond this machine a token is required")
    up.add_argument("--slots", type=_count, metavar="N", help="trainings at the same time (default: one per device)")
    up.add_argument("--no-dashboard", action="store_true", help="serve the API alone")
    up.add_argument("--detach", action="store_true", help="return as soon as the server answers, and leave it running")

    command("status", "server:status", "say whether a server runs, where, and what it does", client, as_json)

    down = command("down", "server:down", "end the server; trainings go on without it", data_dir, as_json)
    down.add_argument("--timeout", type=_seconds, default=60.0, metavar="S", help="wait this long for it (default: 60)")

    demo = command("demo", "demo:demo", "show everything with a short training on the demo model", data_dir)
    _serving(demo)
    demo.add_argument("--exit", action="store_true", help="end after the training instead of waiting for Ctrl-C")

    train = command("train", "train:train", "train without the dashboard, in this terminal", client, as_json)
    source = train.add_mutually_exclusive_group(required=True)
    source.add_argument("config", nargs="?", type=Path, metavar="CONFIG.toml", help="the configuration's fields")
    source.add_argument("--demo", action="store_true", help="a short training on the demo model")
    train.add_argument(
        "--set", dest="settings", action="append", default=[], metavar="KEY=VALUE", help="set a field; may be repeated"
    )
    train.add_argument("--name", help="the training's name (default: one that the configuration suggests)")

    for action, text in (
        ("pause", "save a checkpoint and end a training, to be resumed later"),
        ("resume", "go on with a training from its newest checkpoint"),
        ("stop", "save a checkpoint and end a training"),
        ("checkpoint", "save a checkpoint of a running training now"),
    ):
        _of_training(command(action, f"trainings:{action}", text, client, as_json))

    wait = command("wait", "trainings:wait", "wait until a training reaches a status", client, as_json)
    _of_training(wait)
    wait.add_argument(
        "--until",
        type=_statuses,
        default="completed",
        metavar="STATUS",
        help="the status, or several with commas between (default: completed)",
    )
    wait.add_argument("--timeout", type=_seconds, metavar="S", help="give up after this many seconds with status 124")

    ls = command("ls", "trainings:ls", "list the trainings", client, as_json)
    ls.add_argument("--status", type=_statuses, metavar="STATUS", help="only these, with commas between")
    ls.add_argument("--limit", type=_count, default=50, metavar="N", help="at most so many, newest first (default: 50)")
    _of_training(command("show", "trainings:show", "show one training", client, as_json))

    logs = command("logs", "logs:logs", "print a training's log", client, as_json)
    _of_training(logs)
    logs.add_argument("-f", "--follow", action="store_true", help="go on printing lines as they are written")
    logs.add_argument("-n", "--lines", type=_count_or_zero, default=50, metavar="N", help="the last N (default: 50)")
    logs.add_argument("--level", type=_level, metavar="LEVEL", help="only lines of this level and above")

    export = command("export", "export:export", "write a training's SAEs as SAELens loads them", data_dir, as_json)
    _of_training(export)
    export.add_argument("--step", type=_count, metavar="N", help="of which checkpoint (default: the newest)")
    export.add_argument(
        "--format",
        choices=("saelens", "safetensors"),
        default="saelens",
        help="a folder an SAE, as SAELens loads it, or one file (default: saelens)",
    )
    export.add_argument("--to", type=Path, metavar="FOLDER", help="where to write (default: ./ID-step-N)")

    html = command(
        "export-html", "report:export_html", "write trainings into one file that opens anywhere", client, as_json
    )
    html.add_argument("ids", nargs="+", metavar="ID", help="one training, or up to ten to be compared; ID~N: its SAE N")
    html.add_argument("--to", type=Path, metavar="FILE", help="where to write (default: ./ID.html)")
    sql = command("sql", "sql:sql", "answer a question in SQL about everything that the log holds", client, as_json)
    sql.add_argument("statement", nargs="?", metavar="STATEMENT", help="the question (default: from standard input)")
    sql.add_argument(
        "--format",
        choices=("table", "csv", "json", "parquet", "arrow"),
        default="table",
        help="how to print the answer (default: table)",
    )
    sql.add_argument(
        "--set", dest="values", action="append", default=[], metavar="NAME=VALUE", help="a value for $NAME"
    )
    sql.add_argument("--limit", type=_count, metavar="N", help="rows at most (default: 10,000; 1,000,000 as a file)")
    sql.add_argument("--seconds", type=_seconds, default=30.0, metavar="S", help="how long it may take (default: 30)")
    sql.add_argument("--schema", action="store_true", help="print which views there are, and what their columns mean")
    replicate = command(
        "replicate", "replicate:replicate", "bring a DuckDB file of your own up to the log's head", client, as_json
    )
    replicate.add_argument("--db", type=Path, required=True, metavar="FILE", help="a replica, or a new file")
    replicate.add_argument(
        "--follow", action="store_true", help="keep it there until Ctrl-C; it can be opened after that"
    )

    export_data = command(
        "export-data",
        "replicate:export_data",
        "write everything as Parquet files, or what has changed",
        client,
        as_json,
    )
    export_data.add_argument(
        "--to", type=Path, required=True, metavar="DIR", help="a folder, of an earlier export or new"
    )

    _templates(commands, client, as_json)
    command("rebuild", "maintenance:rebuild", "make every projection anew from the log", client, as_json)
    command(
        "verify",
        "maintenance:verify",
        "see whether the log is whole and every projection agrees",
        client,
        as_json,
    )
    backup = command("backup", "maintenance:backup", "copy the log, whole, while everything goes on", client, as_json)
    backup.add_argument(
        "folder", nargs="?", type=Path, metavar="FOLDER", help="a new folder (default: one in the data directory)"
    )
    restore = command(
        "restore", "maintenance:restore", "put a backup into a data directory without a log", data_dir, as_json
    )
    restore.add_argument("folder", type=Path, metavar="FOLDER", help="what backup has made")
    purge = command("purge", "purge:purge", "remove deleted trainings' events and files for good", client, as_json)
    purge.add_argument("ids", nargs="+", metavar="ID", help="a deleted training's whole id")
    purge.add_argument("--yes", action="store_true", help="do not ask")
    command(
        "salvage",
        "salvage:salvage",
        "set a damaged log aside and begin a new one with what can be read of it",
        data_dir,
        as_json,
    )
    command("doctor", "doctor:doctor", "check Python, PyTorch, devices, disk and data directory", data_dir, as_json)
    return parser


def _templates(commands: argparse._SubParsersAction[_Parser], *parents: _Parser) -> None:
    text = "list, export and import templates"
    templates = commands.add_parser("templates", help=text, description=f"{text.capitalize()}.")
    actions = templates.add_subparsers(title="actions", metavar="ACTION", required=True)

    def action(name: str, run: str, text: str) -> _Parser:
        added = actions.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.", parents=parents)
        added.set_defaults(run=f"templates:{run}")
        return added

    listed = action("list", "list_", "list the templates, favourites first")
    listed.add_argument("q", nargs="?", metavar="WORDS", help="only those with these words")
    export = action("export", "export", "write templates, or all, into a JSON document")
    export.add_argument("templates", nargs="*", metavar="TEMPLATE", help="by name or id (default: all)")
    export.add_argument("--to", type=Path, metavar="FILE", help="where to write (default: standard output)")
    imported = action("import", "import_", "take in the templates of a JSON document")
    imported.add_argument("file", type=Path, metavar="FILE", help="what export has written")
    imported.add_argument("--dry-run", action="store_true", help="say what would become of each, and write nothing")
    imported.add_argument(
        "--conflicts",
        choices=("skip", "rename", "overwrite"),
        default="skip",
        help="what becomes of one whose name a different template has (default: skip)",
    )


def _serving(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--port",
        type=_port,
        metavar="PORT",
        help=f"port to listen on; 0 takes any free one (default: {DEFAULT_PORT}, or the next that is free)",
    )
    parser.add_argument("--no-browser", action="store_true", help="do not open a browser")


def _of_training(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("id", metavar="ID", help="the training's id; its beginning is enough where no other has it")


def _count(text: str) -> int:
    number = _count_or_zero(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, not {text}")
    return number


def _count_or_zero(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be a whole number, not {text!r}")
    return int(text)


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65_535:
        raise argparse.ArgumentTypeError(f"must be a port from 0 to 65535, not {text!r}")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number of seconds, not {text!r}")
    return seconds


def _level(text: str) -> str:
    from typing import get_args

    from events.log import Level

    if text.upper() not in get_args(Level):
        raise argparse.ArgumentTypeError(f"must be one of {', '.join(get_args(Level))}, not {text!r}")
    return text.upper()


def _statuses(text: str) -> tuple[str, ...]:
    from typing import get_args

    from events.status import Status

    wanted = tuple(part.strip().lower() for part in text.split(","))
    for status in wanted:
        if status not in get_args(Status):
            raise argparse.ArgumentTypeError(f"must be one of {', '.join(get_args(Status))}, not {status!r}")
    return wanted
