"""A bar on standard error while data runs through a model; nothing where that is no terminal."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress_bar(*, quiet: bool) -> Iterator[Callable[[int, int, int], None] | None]:
    """What to call after each batch with the pass, the number of passes and the batches done; None if nobody looks."""
    from rich.console import Console

    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield None
        return
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("reading data", total=None)

        def told(number: int, passes: int, batches: int) -> None:
            bar.update(task, description=f"pass {number} of {passes}: {batches:,} batches")

        yield told
