"""The charts of a long training that the real server has taken in: whole, with every spike, and live without a seam."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from charted import LINES, SPIKES, spiked
from harness import Server, Tab, wait_until

from events.client import read_address
from events.control import TrainingCreated
from events.emitter import Emitter
from events.ids import new_id
from events.spool import hold
from events.training import Sae, TrainingConfig, TrainingStarted

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

TabAt = Callable[..., Tab]

STEPS = 100_000


def test_a_hundred_thousand_steps_are_shown_whole_with_every_spike_and_then_live(server: Server, tab_at: TabAt) -> None:
    training = new_id()
    folder = server.data_dir.parent / "elsewhere" / training
    lock = hold(folder)
    config = TrainingConfig(model="demo", datasets=("stdlib",), architecture_type="topk", total_steps=STEPS + 1_900)
    created = TrainingCreated(name="long", config=config, launcher="external")
    emitter = Emitter(folder, training, address=lambda: read_address(server.data_dir), created=created)
    over = threading.Event()
    gone: list[int] = []

    def go_on() -> None:
        step = STEPS
        while step < STEPS + 1_900 and not over.wait(0.05):
            step += 1
            emitter.emit(spiked(step, total=STEPS))
            gone.append(step)

    trainer = threading.Thread(target=go_on)
    try:
        emitter.emit(TrainingStarted(pid=1, host="elsewhere", device="cuda", saes=(Sae(layer=1, hook="resid_post"),)))
        for step in range(1, STEPS + 1):
            emitter.emit(spiked(step, total=STEPS))
        assert emitter.flush(120)
        trainer.start()
        tab = tab_at(f"{server.url}?training={training}")
        seen = wait_until(lambda: tab.steps(), "the history", 60)[-1]
        wait_until(lambda: tab.steps()[-1] > seen + 30, "live steps", 60)
        over.set()
        trainer.join()
        assert emitter.flush(60)
        last = gone[-1]
        wait_until(lambda: server.ask(f"trainings/{training}")["step"] == last, "the last step in the log", 60)
        wait_until(lambda: tab.steps()[-1] == last, "the last step", 60)
        steps = tab.steps()
    finally:
        over.set()
        if trainer.ident is not None:
            trainer.join()
        emitter.close(0)
        lock.release()
    assert steps[0] == 1
    assert steps == sorted(set(steps))
    # The history is 500 buckets of two rows. Its last row is where the steps that follow one by one begin.
    one_by_one = len(steps) - 1
    while steps[one_by_one - 1] == steps[one_by_one] - 1:
        one_by_one -= 1
    assert one_by_one + 1 == 1_000
    for column, line in LINES.items():
        metric = column.removesuffix("_0")
        # How many come live depends on how long the page took.
        live = sum(getattr(spiked(step, total=STEPS), metric) == line.spike for step in gone)
        assert sum(value >= line.spike * 0.999 for value in tab.steps(column)) == SPIKES + live, column
