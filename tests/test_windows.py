"""On Windows the command says in one sentence where it does run."""

import sys

import pytest

from bnfold.__main__ import ON_WINDOWS, run


def test_the_command_names_what_to_do_on_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(SystemExit) as left:
        run()
    assert left.value.code == ON_WINDOWS
    assert "WSL" in ON_WINDOWS
