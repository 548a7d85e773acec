"""How far a drill has come: a line that moves on a terminal, a line for each step elsewhere."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn


class Steps:
    """What is done now, and how much of all."""

    def __init__(self, progress: Progress, console: Console, total: int) -> None:
        self._progress = progress
        self._console = console
        self._total = total
        self._done = 0
        self._now = ""
        self._task = progress.add_task("", total=total)

    def begin(self, what: str) -> None:
        """This is being done."""
        self._now = what
        self._progress.update(self._task, description=what)

    def end(self, said: str, *, style: str = "") -> None:
        """One step is over."""
        self._done += 1
        self._now = ""
        self._progress.advance(self._task)
        self.say(said, style=style)

    def say(self, said: str, *, style: str = "") -> None:
        """A line of its own, of the step before."""
        self._console.print(f"[{self._done}/{self._total}] {said}", style=style, markup=False, highlight=False)

    @property
    def where(self) -> str:
        """How far it has come, in words."""
        return f"after {self._done} of {self._total} steps" + (f", in {self._now}" if self._now else "")


@contextmanager
def steps(console: Console, total: int) -> Iterator[Steps]:
    """Show progress until the block's end."""
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        yield Steps(progress, console, total)
