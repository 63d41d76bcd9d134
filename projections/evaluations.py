"""What trainings' SAEs were worth on held-out text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import msgspec
from duckdb import DuckDBPyConnection

from events.batch import Batch
from events.event import Recorded
from events.training import EvaluationMade, TrainingResumed

from .projection import Projection, int64, training_of
from .table import Changes, Table


class Evaluation(msgspec.Struct, frozen=True):
    """A row of the table `evaluations`: the fields of `EvaluationMade`; `occurred_at` in µs since 1970 (UTC)."""

    training: str
    step: int
    sae: int
    position: int
    occurred_at: int
    tokens: int
    fvu: float | None
    l0: float | None
    dead_latents: int
    dense_latents: int
    duplicate_latents: int
    ce_clean: float | None
    ce_spliced: float | None
    ce_ablated_zero: float | None
    ce_ablated_mean: float | None
    kl_spliced: float | None
    loss_recovered: float | None
    shrinkage: float | None
    density_histogram: tuple[int, ...]
    verdict: str | None
    reasons: tuple[str, ...]
    fvu_affine: float | None
    diverged: bool


class EvaluationRow(msgspec.Struct, frozen=True, kw_only=True):
    """An evaluation of one SAE; figures as in `EvaluationMade`, `timestamp` in µs since 1970 (UTC)."""

    step: int
    sae: int
    position: int
    timestamp: int
    tokens: int
    fvu: float | None
    l0: float | None
    dead_latents: int
    dense_latents: int
    duplicate_latents: int
    ce_clean: float | None
    ce_spliced: float | None
    ce_ablated_zero: float | None
    ce_ablated_mean: float | None
    kl_spliced: float | None
    loss_recovered: float | None
    shrinkage: float | None
    density_histogram: list[int]
    verdict: str | None
    reasons: list[str]
    fvu_affine: float | None
    diverged: bool


EVALUATIONS = Table("evaluations", Evaluation, ("training", "step", "sae"))

_FIGURES = tuple(name for name in EvaluationMade.__struct_fields__ if name not in ("step", "sae"))


class Evaluations(Projection):
    """The newest evaluation of every step and SAE, less those beyond the step of a later resume."""

    name = "evaluations"
    version = 3
    types = frozenset({"EvaluationMade", "TrainingResumed"})
    schema = (EVALUATIONS,)

    def fold(self, con: DuckDBPyConnection, batch: Batch) -> None:
        changes = Changes(self.tables[0])

        def take(recorded: Recorded) -> None:
            training = training_of(recorded.stream)
            if recorded.type == "TrainingResumed":
                changes.cut(training, cast(TrainingResumed, recorded.data).step)
                return
            event = cast(EvaluationMade, recorded.data)
            figures = {name: getattr(event, name) for name in _FIGURES}
            changes.put(
                Evaluation(
                    training=training,
                    step=event.step,
                    sae=event.sae,
                    position=recorded.position,
                    occurred_at=recorded.occurred_at,
                    **figures,
                )
            )

        self.each(batch, take)
        changes.apply(con, self.skip)


def list_(con: DuckDBPyConnection, id: str, *, sae: int | None = None) -> list[EvaluationRow]:
    """The training's evaluations in order of step and SAE."""
    where, parameters = ("", [id]) if sae is None else (" AND sae = ?", [id, int64(sae)])
    found = EVALUATIONS.select(con, f"WHERE training = ?{where} ORDER BY step, sae", parameters)
    return [
        EvaluationRow(
            step=each.step,
            sae=each.sae,
            position=each.position,
            timestamp=each.occurred_at,
            **{name: getattr(each, name) for name in _FIGURES},
        )
        for each in found
    ]


_WORST = ("bad", "watch", "good")


def verdicts(
    con: DuckDBPyConnection, trainings: Sequence[str]
) -> dict[str, tuple[str | None, tuple[tuple[int, str], ...]]]:
    """Training → the worst verdict of its SAEs' newest evaluations, and every reason with its SAE's index."""
    found = con.execute(
        "SELECT training, sae, arg_max(struct_pack(verdict := verdict, reasons := reasons), step) FROM evaluations"
        " WHERE training IN (SELECT unnest(?::VARCHAR[])) GROUP BY training, sae ORDER BY training, sae",
        [list(trainings)],
    ).fetchall()
    said: dict[str, set[str | None]] = {}
    reasons: dict[str, list[tuple[int, str]]] = {}
    for training, sae, newest in found:
        said.setdefault(training, set()).add(newest["verdict"])
        reasons.setdefault(training, []).extend((sae, reason) for reason in newest["reasons"])
    return {
        training: (next((verdict for verdict in _WORST if verdict in given), None), tuple(reasons[training]))
        for training, given in said.items()
    }


def mean_fvu(con: DuckDBPyConnection, id: str) -> dict[int, float]:
    """Step → mean FVU over the SAEs that were evaluated at it, steps without a finite figure left out.

    One that has diverged is left out of every step, those before it did too: means are over the same SAEs.
    """
    found = con.execute(
        "SELECT step, avg(fvu) FROM evaluations WHERE training = $id"
        " AND sae NOT IN (SELECT sae FROM evaluations WHERE training = $id AND diverged)"
        " GROUP BY step HAVING isfinite(avg(fvu))",
        {"id": id},
    ).fetchall()
    return dict(found)
