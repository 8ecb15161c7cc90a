"""Tables for a terminal, and plain lines for a file."""

from collections.abc import Iterable, Mapping, Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from training.progress import make_console


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """A table to print; its first column is never cut.

    Args:
        title: above the table.
        columns: headings.
        rows: one text per column.
    """
    found = Table(
        title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD
    )
    for i, name in enumerate(columns):
        found.add_column(name, no_wrap=i == 0, overflow="fold")
    for row in rows:
        found.add_row(*(Text(cell) for cell in row))
    return found


def show(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Prints a table; arguments as for `table`."""
    make_console().print(table(title, columns, rows))


def show_metrics(step: int, metrics: Mapping[str, float]) -> None:
    """Prints metrics by `repr`, one a line, so that equality can be seen to the last bit."""
    console = make_console()
    width = max((len(name) for name in metrics), default=0)
    console.print(Text(f"step {step}"))
    for name, value in metrics.items():
        console.print(Text(f"{name:{width}}  {value!r}"), soft_wrap=True)
