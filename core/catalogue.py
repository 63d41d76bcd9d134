"""The models and data sets that ship with SAE Studio, and how a reference to one is resolved."""

import json
import struct
import sysconfig
from math import prod
from pathlib import Path
from typing import get_args

from events.catalog import DatasetRegistered, ModelRegistered
from events.training import HookType

_DEMO = Path(__file__).parent / "activations" / "demo"

# Generated tables, tests and what others installed are left out: they are not the library's own prose of code, and
# distributions differ in them.
_STDLIB_PATTERN = ",".join(
    (
        "**/*.py",
        "!site-packages/**/*",
        "!dist-packages/**/*",
        "!test/**/*",
        "!**/test/**/*",
        "!**/tests/**/*",
        "!**/idle_test/**/*",
        "!encodings/**/*",
        "!pydoc_data/**/*",
        "!_sysconfigdata*",
    )
)

BUILTIN_DATASETS: tuple[DatasetRegistered, ...] = (
    DatasetRegistered(
        dataset_id="stdlib",
        source=sysconfig.get_path("stdlib"),
        title="Python standard library (sources of the running interpreter)",
        format="text",
        pattern=_STDLIB_PATTERN,
    ),
)
