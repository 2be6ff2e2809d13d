"""How the results of measures print: three columns, as text and in a notebook."""

from __future__ import annotations

import html
from abc import ABC, abstractmethod

Row = tuple[str, str, str]
"""A quantity, its value, and what it is."""


class Printed(ABC):
    """A result that prints as a table."""

    @abstractmethod
    def rows(self) -> list[Row]:
        """The table: ``(quantity, value, what it is)``."""

    def __str__(self) -> str:
        rows = self.rows()
        left, middle = (max(len(row[k]) for row in rows) for k in (0, 1))
        return "\n".join(f"{name:<{left}}  {value:>{middle}}  {words}" for name, value, words in rows)

    def _repr_html_(self) -> str:
        cell = '<td style="text-align:{}">{}</td>'
        body = "".join(
            f"<tr>{cell.format('left', html.escape(name))}{cell.format('right', html.escape(value))}"
            f"{cell.format('left', html.escape(words))}</tr>"
            for name, value, words in self.rows()
        )
        return f'<table style="font-variant-numeric:tabular-nums">{body}</table>'
