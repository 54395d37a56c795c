"""How far a command has come: a bar on standard error, where that is a terminal."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

console = Console(stderr=True)

Each = TypeVar("Each")


class _Rate(ProgressColumn):
    """Pictures a second."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.0f}/s" if task.speed else "", "progress.data.speed")


def shown_progress(each: Iterable[Each], what: str, count: Callable[[], int | None]) -> Iterator[Each]:
    """The same again, with a bar that shows rate and remaining time.

    Args:
        each: what is worked on.
        what: its name.
        count: counts how many there are, if that can be known; called only if there is a bar.
    """
    if not console.is_terminal:
        yield from each
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        yield from progress.track(each, count(), description=what)
