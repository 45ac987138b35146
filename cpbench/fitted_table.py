"""A table for terminals of any width: no cell is cut. Where it does not fit, columns are left out, continued below, or turned."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from io import StringIO
from typing import Any

from rich import box
from rich.console import Console, ConsoleOptions, RenderableType
from rich.measure import Measurement
from rich.table import Column, Table
from rich.text import Text, TextType

LONGEST_WORD = 24  # columns; a longer word in a cell of text may be folded
UNLIMITED = 100_000  # columns, where there is no terminal: each row is one line
INDENT = 2  # of a turned table's values


class FittedTable(Table):
    """A rich Table that adapts to the width it is printed at. A column with `no_wrap` is never folded, so its numbers stay whole.

    drop: heads of the columns that may be left out, the least important first; the others are always shown. A line below the
    table names what is left out. split: columns that do not fit are continued below, with the first column repeated.

    If neither is enough, the table is turned: each row becomes a block of lines, one per column.
    """

    def __init__(self, *args: Any, drop: Sequence[str] = (), split: bool = False, **options: Any):
        super().__init__(*args, **options)
        self.drop, self.split = tuple(drop), split

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Any]:
        if not self.columns:
            return
        for part in self.parts(console, options):
            yield from console.render(part, options)

    def parts(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        """What is printed at this width: plain tables, or lines."""
        unlimited = options.update_width(UNLIMITED)
        bounds = [self._bounds(console, unlimited, column) for column in self.columns]
        heads = [str(column.header) for column in self.columns]
        visible = [k for k, head in enumerate(heads) if head not in self.drop]
        for head in reversed([head for head in self.drop if head in heads]):  # the most important first
            more = sorted({*visible, *(k for k, name in enumerate(heads) if name == head)})
            if self._width([bounds[k][0] for k in more]) <= options.max_width:
                visible = more
        if self._width([bounds[k][0] for k in visible]) <= options.max_width:
            left_out = [" ".join(heads[k].split()) for k in range(len(heads)) if k not in visible]
            yield self._part(visible, bounds, options.max_width, self.title, left_out)
        elif self.split and all(self._width([bounds[0][0], low]) <= options.max_width for low, _ in bounds[1:]):
            yield from self._blocks(bounds, options.max_width)
        else:
            yield self._turned(console)

    def _bounds(self, console: Console, options: ConsoleOptions, column: Column) -> tuple[int, int]:
        """(fewest, most) characters of a column, without padding."""
        cells = [Measurement.get(console, options, cell) for cell in column.cells]
        head = Measurement.get(console, options, column.header) if self.show_header else Measurement(0, 0)
        most = max([head.maximum, *(cell.maximum for cell in cells)])
        if column.no_wrap:
            return most, most
        word = max([0, *(min(cell.minimum, LONGEST_WORD) for cell in cells)])
        if column.min_width is None:  # else the head may be folded to that width
            word = max(word, head.minimum)
        fewest = max(word, column.min_width or 1)
        return fewest, max(fewest, most)

    def _width(self, widths: Sequence[int]) -> int:
        """Of a table with columns of these widths; versions of rich count the padding at the edges differently."""
        table = Table(box=self.box, show_edge=self.show_edge, pad_edge=self.pad_edge, padding=self.padding)
        table.columns = [Column(_index=n) for n in range(len(widths))]
        return sum(widths) + sum(table._get_padding_width(n) for n in range(len(widths))) + table._extra_width

    def _part(
        self,
        visible: Sequence[int],
        bounds: Sequence[tuple[int, int]],
        room: int,
        title: Any,
        left_out: Sequence[str] = (),
    ) -> Table:
        """A plain table of some of the columns; room that is left goes to the narrowest of those that could use it."""
        widths = {k: bounds[k][0] for k in visible}
        spare = min(room, UNLIMITED) - self._width(list(widths.values()))
        while spare > 0 and (short := [k for k in visible if widths[k] < bounds[k][1]]):
            narrowest = min(short, key=lambda k: widths[k])
            widths[narrowest] += 1
            spare -= 1
        notes = [
            note
            for note in (self.caption, f"not shown at this width: {'; '.join(left_out)}" if left_out else "")
            if note
        ]
        table = Table(
            title=title,
            caption=Text("\n").join(Text.from_markup(note) if isinstance(note, str) else note for note in notes)
            if notes
            else None,
            title_justify=self.title_justify,
            caption_justify="left" if left_out else self.caption_justify,
            box=self.box,
            show_header=self.show_header,
            show_edge=self.show_edge,
            pad_edge=self.pad_edge,
            padding=self.padding,
        )
        table.columns = [
            replace(self.columns[k], _index=n, width=widths[k], min_width=None, overflow="fold")
            for n, k in enumerate(visible)
        ]
        table.rows = self.rows
        return table

    def _blocks(self, bounds: Sequence[tuple[int, int]], room: int) -> Iterator[RenderableType]:
        """The table in parts that fit, each with the first column."""
        queue = list(range(1, len(self.columns)))
        title = self.title
        while queue:
            visible = [0]
            while queue and self._width([bounds[k][0] for k in [*visible, queue[0]]]) <= room:
                visible.append(queue.pop(0))
            if title is None:
                yield ""
            yield self._part(visible, bounds, room, title)
            title = None

    def _turned(self, console: Console) -> RenderableType:
        """Each row as lines: its first cell alone, below it "head  cell" for every other column that is not empty."""
        outer = Table(box=None, show_header=False, show_edge=False, pad_edge=False, padding=0)
        outer.add_column(overflow="fold")
        if self.title:
            outer.add_row(self.title)
        heads = [" ".join(str(column.header).split()) for column in self.columns]
        for cells in zip(*(column.cells for column in self.columns), strict=True):
            outer.add_row(f"[bold]{cells[0]}[/bold]" if isinstance(cells[0], str) else cells[0])
            inner = Table(box=None, show_header=False, show_edge=False, pad_edge=False, padding=(0, INDENT, 0, 0))
            for column in (Column(width=0), Column(no_wrap=True), Column(overflow="fold")):
                inner.columns.append(replace(column, _index=len(inner.columns)))
            for head, cell in zip(heads[1:], cells[1:], strict=True):
                if str(cell) not in ("", "-"):
                    inner.add_row("", head, cell)
            outer.add_row(inner)
        if self.caption:
            outer.add_row(self.caption)
        return outer


def compact(title: TextType, gap: int = 2, **options: Any) -> FittedTable:
    """A table without frame, its columns `gap` characters apart: eleven columns of numbers fit a terminal of 80."""
    style = {"box": box.SIMPLE_HEAD, "padding": (0, gap - 1, 0, 0), "pad_edge": False, "show_edge": False}
    return FittedTable(title=title, title_justify="left", **style, **options)


def unwrapped(table: FittedTable) -> list[str]:
    """The table as lines of text, for a file or a pipe: one per row, and nothing left out."""
    console = Console(width=UNLIMITED, file=StringIO(), highlight=False)
    console.print(table)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]
