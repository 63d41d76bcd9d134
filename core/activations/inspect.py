"""What a model, a data set or a folder of activations is, as one JSON object:
`python -m core.activations.inspect model|dataset|activations SOURCE`.

Run in a child process by server and command line, which thus never import a machine learning library. The object goes
to stdout: the facts, or {"error": "one sentence"} with exit code 1. Lines of progress go to stderr.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from events.catalog import DatasetRegistered

from .stored import ActivationsError

if TYPE_CHECKING:
    from .corpora import Corpus

_SAMPLE_CHARACTERS = 500
_COUNTED_BYTES = 256 << 20


def inspect_model(source: str, revision: str | None = None) -> dict[str, Any]:
    """The facts of a model, read without its weights; raises ModelError."""
    _progress("loading the library")
    from .models import read_facts

    _progress(f"reading the configuration of {source}")
    return msgspec.to_builtins(read_facts(source, revision=revision))


def inspect_dataset(
    source: str,
    *,
    pattern: str | None = None,
    configuration: str | None = None,
    split: str | None = None,
    text_column: str | None = None,
    revision: str | None = None,
) -> dict[str, Any]:
    """The facts of a data set and the beginning of its first document; raises CorpusError or SourceError.

    `documents` and `size` (bytes) are None where knowing them would mean reading everything.
    """
    _progress("loading the library")
    from .corpora import CorpusError, Table, open_corpus
    from .sources import format_of, local_path

    kind, found_pattern = format_of(source, pattern)
    entry = DatasetRegistered(
        dataset_id=source,
        source=source,
        format=kind,
        pattern=found_pattern,
        configuration=configuration,
        split=split,
        text_column=text_column,
        revision=revision,
    )
    _progress(f"reading the first document of {source}")
    corpus = open_corpus(entry)
    first = next(corpus.documents("train"), None)
    if first is None:
        raise CorpusError(f"'{source}' holds no text.")
    documents, size = _extent(corpus, entry)
    path = local_path(source)
    table = corpus if isinstance(corpus, Table) else None
    return {
        "source": source,
        "title": path.name if path is not None else source,
        "format": kind,
        "pattern": found_pattern,
        "configuration": configuration,
        "split": split,
        "text_column": table.column if table is not None else None,
        "revision": table.revision if table is not None else None,
        "documents": documents,
        "size": size,
        "sample": first.text[:_SAMPLE_CHARACTERS],
    }


def inspect_activations(source: str) -> dict[str, Any]:
    """The facts of a folder of activations, read from its files' headers and samples; raises ActivationsError."""
    from .stored import open_folder

    _progress(f"reading the headers of the files in {source}")
    return msgspec.to_builtins(open_folder(Path(source)).facts)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m core.activations.inspect", description=__doc__)
    kinds = parser.add_subparsers(dest="kind", required=True)
    model = kinds.add_parser("model", help="a folder or hub id of a causal language model")
    dataset = kinds.add_parser("dataset", help="a file, folder or hub id of text")
    activations = kinds.add_parser("activations", help="a folder of .safetensors files with activations")
    activations.add_argument("source")
    for kind in (model, dataset):
        kind.add_argument("source")
        kind.add_argument("--revision", help="branch, tag or commit on the hub")
    dataset.add_argument("--pattern", help="globs that select files in a folder, e.g. '**/*.py,!**/tests/**/*'")
    dataset.add_argument("--configuration", help="configuration of a hub data set")
    dataset.add_argument("--split", help="split of a hub data set (default: train)")
    dataset.add_argument("--text-column", help="column that holds the text (default: found by itself)")
    options = vars(parser.parse_args(arguments))
    kinds_of = {"model": inspect_model, "dataset": inspect_dataset, "activations": inspect_activations}
    inspect = kinds_of[options.pop("kind")]
    code = 0
    # What libraries print belongs to the progress: stdout carries one JSON object and nothing else.
    with contextlib.redirect_stdout(sys.stderr):
        try:
            answer = inspect(**options)
        except Exception as error:  # noqa: BLE001 the caller is told, in one sentence, whatever it was
            answer, code = {"error": _sentence(error)}, 1
    sys.stdout.write(json.dumps(answer) + "\n")
    return code


def _extent(corpus: Corpus, entry: DatasetRegistered) -> tuple[int | None, int | None]:
    """Number of documents and of bytes, as far as they are cheaply known."""
    from .corpora import Table, TextFiles
    from .sources import matching_files

    if entry.format == "hub":
        splits = (corpus.info.splits if isinstance(corpus, Table) else None) or {}
        known = splits.get(entry.split or "train")
        return (known.num_examples or None, known.num_bytes or None) if known is not None else (None, None)
    folder, names = matching_files(entry.source, entry.pattern)
    files = [folder / name for name in names]
    size = sum(file.stat().st_size for file in files)
    if isinstance(corpus, TextFiles):
        return len(corpus), size
    if entry.format == "parquet":
        from pyarrow import parquet

        return sum(parquet.read_metadata(file).num_rows for file in files), size
    if size > _COUNTED_BYTES or any(file.suffix == ".gz" for file in files):
        return None, size
    return sum(_lines(file) for file in files), size


def _lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(1 for line in file if line.strip())


def _sentence(error: Exception) -> str:
    if isinstance(error, ActivationsError):
        return str(error)
    from .corpora import CorpusError
    from .models import ModelError
    from .sources import SourceError

    if isinstance(error, (ModelError, CorpusError, SourceError)):
        return str(error)
    return f"It cannot be inspected: {type(error).__name__}: {' '.join(str(error).split())}."


def _progress(text: str) -> None:
    print(f"progress: {text}", file=sys.stderr, flush=True)  # noqa: T201 this line is the protocol


if __name__ == "__main__":
    sys.exit(main())
