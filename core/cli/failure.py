"""What ends a command: one sentence, an exit status, and what else there is to say."""

from __future__ import annotations

from collections.abc import Iterable


class Failure(Exception):
    """The command cannot do what it was asked to; `problems` are further sentences, one for each thing to blame."""

    def __init__(self, sentence: str, *, status: int = 1, problems: Iterable[str] = ()) -> None:
        self.status = status
        self.problems = tuple(problems)
        super().__init__(sentence)
