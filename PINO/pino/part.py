"""Data files in the making: their rows, in pieces that are each written atomically, so that a kill loses few.

    <name>.part/arguments.json        what is being made; pieces of other arguments are removed
    <name>.part/rows_<first row>.npz  signs, u and largest residual of some rows
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from .files import Claimable, atomic_write, read_text, warn_once, write_json


class Part(Claimable):
    """The folder `<name>.part/`, in which the rows of a file gather."""

    def __init__(self, target: Path, arguments: Mapping[str, Any]) -> None:
        """Describe the folder beside a file; nothing is touched on disk."""
        super().__init__(target.with_name(target.name + ".part"))
        self.rows, self.residual = 0, 0.0
        self._arguments = dict(arguments)
        self._pieces: list[Path] = []

    def open(self) -> None:
        """Find the rows that are there already; those of other arguments are removed. Raises OSError."""
        for temporary in self.path.glob("*.tmp"):
            temporary.unlink(missing_ok=True)
        note = self.path / "arguments.json"
        text, found = read_text(note), None
        with suppress(TypeError, ValueError):
            found = json.loads(text)
        if found != self._arguments:
            if text is not None:
                warn_once(f"{self.path} is begun anew: it was made with other arguments")
            for piece in self.path.glob("rows_*.npz"):
                piece.unlink()
            write_json(note, self._arguments)
        while (piece := self._piece()).exists():
            try:
                with np.load(piece) as arrays:  # the archive has checksums
                    rows, residual = len(arrays["u"]), float(arrays["residual"])
                    if len(arrays["signs"]) != rows:
                        raise ValueError("it is cut short")
            except Exception as error:  # damaged in any way
                warn_once(f"{piece} is made anew: {error}")
                break
            self._count(piece, rows, residual)

    def _piece(self) -> Path:
        return self.path / f"rows_{self.rows:07d}.npz"

    def _count(self, piece: Path, rows: int, residual: float) -> None:
        self._pieces.append(piece)
        self.rows, self.residual = self.rows + rows, max(self.residual, residual)

    def append(self, bits: np.ndarray, u: np.ndarray, residual: float) -> None:
        """Write the next rows. Raises OSError."""
        piece = self._piece()
        atomic_write(piece, lambda file: np.savez(file, signs=bits, u=u, residual=residual))
        self._count(piece, len(u), residual)

    def gather(self, name: str, rows: int) -> np.ndarray:
        """`signs` or `u` of the first rows."""
        arrays = []
        for piece in self._pieces:
            with np.load(piece) as found:
                arrays.append(found[name])
        return np.concatenate(arrays)[:rows]

    def close(self) -> None:
        """Release the folder, which stays for the next start unless it holds no rows."""
        if self._pieces:
            self.release()
        else:
            self.remove()

    def remove(self) -> None:
        """Remove the folder, if it is ours."""
        for path in (*self.path.glob("rows_*.npz"), *self.path.glob("*.tmp"), self.path / "arguments.json"):
            path.unlink(missing_ok=True)
        self.release()
        with suppress(OSError):  # the next process may have it already
            self.path.rmdir()
