"""A lorafab store, to look at: adapters as rows and data frames, their weights as NumPy arrays, comparisons, readings."""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Literal, final, overload

import numpy
import pandas
import polars
from numpy.typing import NDArray

__version__: str

class Error(Exception):
    """What a store cannot answer, in one sentence."""

@final
class Store:
    """A store that exists, opened for reading: nothing in it is ever made, changed or brought up to date.

    Every call looks at the store as it is then. What cannot be answered is a `lorafab.Error`.
    """

    def __new__(cls, path: str | PathLike[str]) -> Store: ...
    @property
    def path(self) -> Path:
        """The store's folder."""

    @overload
    def adapters(
        self,
        where: str | None = None,
        sort: str | Sequence[str] | None = None,
        limit: int | None = None,
        columns: str | Sequence[str] | None = None,
        frame: None = None,
    ) -> list[dict[str, Any]]:
        """The adapters that pass a filter, as `lorafab adapter list --json` has them.

        where: a condition, e.g. "family = topic and gate_on >= 0.5".
        sort: fields to sort by, "-" before one for descending, e.g. "-gate_on,value" or ["-gate_on", "value"].
        limit: the first so many.
        columns: these fields alone, e.g. "behaviour,gate_on" or ["behaviour", "gate_on"].
        frame: "pandas" or "polars" for a data frame in place of a list of dicts. Without columns it has every field in
            a column of its own: metrics by their names, tags as "tag.NAME".
        """

    @overload
    def adapters(
        self,
        where: str | None = None,
        sort: str | Sequence[str] | None = None,
        limit: int | None = None,
        columns: str | Sequence[str] | None = None,
        *,
        frame: Literal["pandas"],
    ) -> pandas.DataFrame: ...
    @overload
    def adapters(
        self,
        where: str | None = None,
        sort: str | Sequence[str] | None = None,
        limit: int | None = None,
        columns: str | Sequence[str] | None = None,
        *,
        frame: Literal["polars"],
    ) -> polars.DataFrame: ...
    def adapter(self, name: str) -> dict[str, Any]:
        """One adapter, by its behaviour, id, alias, or value where only one has it: its row of `adapters()`, and what else
        its record holds (peft, parents, lineage, spec, ...)."""

    def load_state_dict(self, name: str) -> dict[str, NDArray[numpy.float32]]:
        """An adapter's tensors by their names in PEFT, as NumPy arrays of float32: what `export` writes."""

    def export(self, name: str, folder: str | PathLike[str], replace: bool = False) -> Path:
        """Writes an adapter as a folder that PEFT loads, as `lorafab adapter export` does, and returns its path.

        replace: whether an adapter that lies there is replaced.
        """

    def comparison(self, run: str | None = None) -> dict[str, Any]:
        """A run's comparison (its comparison.json), the newest run's if none is named."""

    def reading(self, name: str) -> dict[str, Any] | None:
        """The latest reading of an adapter that the store keeps (`lorafab read`), or None."""

    def runs(self) -> list[str]:
        """The names of the runs that have a comparison, the newest first."""
