"""The device is never waited for between steps: metrics are read a step late, the state not at all, and no step calls back."""

import dataclasses

import pytest

from unisc.train import loop, ranking
from unisc.train.loop import Runtime
from unisc.train.ranking import train
from unisc.train.step import compiled


class Unread:
    """A state the loop may hand on and nothing else: it is no array, no tree of arrays, and has no fields."""

    def __init__(self, state):
        self._state = state


class Watched:
    """A step's metrics, whose reading is written down."""

    def __init__(self, metrics, step, events):
        self._metrics, self._step, self._events = metrics, step, events

    def __getattr__(self, name):
        self._events.append(("read", self._step))
        return getattr(self._metrics, name)


@pytest.fixture
def watched(monkeypatch):
    """Watch the loop's steps; the fixture holds what was dispatched and read, in order, and the program's text."""
    events, texts = [], []

    def watch(step, state, *rest):
        program = compiled(step, state, *rest)
        texts.append(program.as_text())

        def run(state, parts, hyper):
            number = 1 + sum(kind == "dispatch" for kind, _ in events)
            events.append(("dispatch", number))
            state, metrics = program(state._state if isinstance(state, Unread) else state, parts, hyper)
            # The loop's caller gets the last state, which it may read.
            return state if number == run.num_steps else Unread(state), Watched(metrics, number, events)

        run.num_steps = num_steps[0]
        return run

    num_steps = [0]
    monkeypatch.setattr(loop, "compiled", watch)
    return events, texts, num_steps


@pytest.mark.parametrize("num_parts", [1, 4])
def test_steps_are_dispatched_before_the_one_before_is_read(make_model, train_columns, config, watched, tmp_path, num_parts):
    events, texts, num_steps = watched
    config = dataclasses.replace(config, num_parts=num_parts)
    shape = ranking.batch_shape(train_columns, config)
    num_steps[0] = len(ranking.packed(train_columns, shape, seed=config.seed, num_epochs=config.num_epochs))
    result = train(make_model(), train_columns, config, embed_dim=4, runtime=Runtime(directory=tmp_path, log_every_steps=1))
    assert result.num_steps == num_steps[0] > 10
    assert [step for kind, step in events if kind == "dispatch"] == list(range(1, result.num_steps + 1))
    for step in range(1, result.num_steps):
        assert events.index(("dispatch", step + 1)) < events.index(("read", step))
    assert ("read", result.num_steps) in events
    assert not any(word in texts[0] for word in ("callback", "infeed", "outfeed", "send(", "recv("))
