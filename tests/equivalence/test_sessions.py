"""Runs of onnxruntime that can be interrupted, one by one and many in one thread."""

import signal
import threading

import numpy as np
import pytest
from onnx import parser

from bnfold.equivalence.runtime import opening
from bnfold.equivalence.runtime.opening import Ahead
from bnfold.equivalence.runtime.sessions import (
    Optimization,
    RunFailed,
    Running,
    interruptibly,
    opened,
    quiet_options,
)
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


ENDLESS = parser.parse_model(
    """<ir_version: 8, opset_import: ["": 15]> g (float[1] x) => (float[1] y) <bool t = {1}> { y = Loop (, t, x)
    <body = b (int64 i, bool c, float[1] a) => (bool d, float[1] r) { d = Identity(c) r = Neg(a) }> }"""
).SerializeToString()
"""A model whose run nothing but an interrupt ends."""


def test_work_beside_a_block_is_stopped_where_the_block_ends() -> None:
    feed = {"x": np.ones(1, np.float32)}
    with opened(ENDLESS, quiet_options(Optimization.OFF)) as session:
        with pytest.raises(ZeroDivisionError), Running(lambda: session.run(feed)) as running:
            1 // 0  # noqa: B018 - what goes wrong beside it
        with pytest.raises(RunFailed):
            running.result()
    assert [thread for thread in threading.enumerate() if thread.name == "bnfold-run"] == []


def test_an_interrupt_where_work_is_waited_for_ends_it() -> None:
    def work() -> None:
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        session.run({"x": np.ones(1, np.float32)})

    with opened(ENDLESS, quiet_options(Optimization.OFF)) as session, Ahead() as ahead:
        with pytest.raises(KeyboardInterrupt):
            ahead.work(work)()
        ahead.drop()
        assert [thread for thread in threading.enumerate() if thread.name == "bnfold-run"] == []


def test_where_memory_is_limited_nothing_is_done_beside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "memory_is_limited", lambda: True)
    done: list[threading.Thread] = []
    with Ahead() as ahead:
        result = ahead.work(lambda: done.append(threading.current_thread()))
        assert done == []
        result()
    assert done == [threading.current_thread()]
