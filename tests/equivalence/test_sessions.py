"""Runs of onnxruntime that can be interrupted, one by one and many in one thread."""

import signal
import threading

import numpy as np
import pytest

from bnfold.equivalence.runtime.sessions import Optimization, RunFailed, interruptibly, opened, quiet_options
from tests.fold_models import build

MODEL = build("y = Relu(x)", inputs={"x": "float[N,4]"}).SerializeToString()
FEED = {"x": np.ones((1, 4), np.float32)}


def test_many_runs_take_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[str] = []

    class Counted(threading.Thread):
        def start(self) -> None:
            started.append(self.name)
            super().start()

    monkeypatch.setattr(threading, "Thread", Counted)
    with opened(MODEL, quiet_options(Optimization.OFF)) as session:
        assert interruptibly(lambda: [session.run(FEED)["y"].sum() for _ in range(3)]) == [4.0] * 3
        assert started == ["bnfold-run"]
        session.run(FEED)
        assert started == ["bnfold-run"] * 2


def test_what_the_work_raises_is_raised_where_it_was_asked_for() -> None:
    with pytest.raises(ZeroDivisionError):
        interruptibly(lambda: 1 // 0)


def test_an_interrupt_ends_the_runs_of_the_thread_and_is_raised() -> None:
    """No run begins any more: the thread would go on for ever otherwise."""
    ended: list[RunFailed] = []

    def work() -> None:
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        try:
            while True:
                session.run(FEED)
        except RunFailed as failure:
            ended.append(failure)

    with opened(MODEL, quiet_options(Optimization.OFF)) as session:
        with pytest.raises(KeyboardInterrupt):
            interruptibly(work)
        assert len(ended) == 1
        assert session.run(FEED)["y"].sum() == 4
