"""A batch as one sees it at a terminal while it runs: how far it is, what failed, and what came last."""

import time
from collections import Counter, deque
from typing import TYPE_CHECKING, Any, Self

from bnfold.fleet.summary import kind_of, sentence
from bnfold.report.text import inert, one_line, shortened

if TYPE_CHECKING:
    from rich.console import RenderableType

    from bnfold.fleet.task import Row

_FAILURES, _LATEST = 12, 4
_WHY = 160


class LiveTable:
    """The table, drawn anew as rows come; failures stand first, the latest of them. A context manager.

    `total`: models of the batch; `before`: those of them that an earlier run did. At the end nothing of it stays.
    """

    def __init__(self, total: int) -> None:
        self._total = total
        self._begun = time.monotonic()
        self._codes: Counter[int] = Counter()
        self._failures: deque[Row] = deque(maxlen=_FAILURES)
        self._latest: deque[Row] = deque(maxlen=_LATEST)

    def __enter__(self) -> Self:
        from rich.live import Live

        self._live: Any = Live(self._drawn(), transient=True, auto_refresh=False)
        self._live.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._live.stop()

    def add(self, row: "Row", skipped: int) -> None:
        """Show one more row; `skipped`: models that were done before."""
        self._codes[row.exit_code] += 1
        (self._latest if row.good else self._failures).append(row)
        self._live.update(self._drawn(skipped), refresh=True)

    def _drawn(self, skipped: int = 0) -> "RenderableType":
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        done = self._codes.total()
        seconds = time.monotonic() - self._begun
        head = Table.grid(padding=(0, 1))
        again = f", {skipped:,} done before" if skipped else ""
        head.add_row(
            ProgressBar(total=max(self._total, 1), completed=min(done + skipped, self._total), width=30),
            Text(f"{done + skipped:,} of {self._total:,}{again}, {seconds:,.0f} s"),
        )
        table = Table(box=None, pad_edge=False, header_style="bold")
        for name in ("model", "outcome", "why"):
            table.add_column(name, overflow="fold" if name == "why" else "ellipsis")
        for row in (*self._failures, *self._latest):
            outcome = row.verdict or "done" if row.good else kind_of(row.exit_code)
            why = "" if row.good else shortened(one_line(row.message), _WHY)
            style = "" if row.good else "red"
            table.add_row(*(Text(inert(one_line(cell)), style=style) for cell in (row.relative, outcome, why)))
        return Group(head, Text(sentence(self._codes)), table)
