"""Data files: HDF5 in the published layout, written in chunks, resumable after a kill, with checksums.

    fields (rows, 2, N, N)      f and u        float32, contiguous
    tensor (rows, 3|5|2)        coefficients of the operator (see systems)
    other  (rows, 1)            advection-diffusion: realised Psi

Root attributes are the arguments of the generator by their flags, system, split, range, generator, residual (largest
relative spectral residual), crc32_<dataset> (of the float32 bytes in row order) and complete. A file grows in a folder
`<name>.part/` beside it, as data.h5 with its state in progress.json, and is moved to its name when it is whole.
"""

import json
import math
import os
import time
import zlib
from collections.abc import Mapping
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from fno.files import Claimable, UsageError, atomic_write, read_text, warn_once, write_json
from fno.samples import Chunk

SAVE_SECONDS = 5.0  # between two saves of the progress
READ_BYTES = 1 << 24  # at once
HEADER = 1 << 16  # more than HDF5 needs beside the rows


def attributes(path: Path) -> dict[str, Any]:
    """Root attributes of a finished file.

    Raises:
        UsageError: for what is no whole HDF5 file of this generator.
    """
    try:
        with h5py.File(path, "r") as file:
            found = read_attributes(file)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {_reason(error)}") from error
    if not found.get("complete"):
        raise UsageError(f"{path} was not made by this generator")
    return found


def read_attributes(file: h5py.File) -> dict[str, Any]:
    """Root attributes as plain values."""
    return {name: value.tolist() if hasattr(value, "tolist") else value for name, value in file.attrs.items()}


def _reason(error: OSError) -> str:
    """What went wrong, without the inner details of HDF5."""
    return error.strerror or str(error).strip().partition("\n")[0]


def checksum(dataset: h5py.Dataset, rows: int) -> int:
    """CRC32 of the bytes of the first `rows` rows."""
    crc, step = 0, _rows_at_once(dataset)
    for i in range(0, rows, step):
        crc = zlib.crc32(np.ascontiguousarray(dataset[i:min(i + step, rows)]), crc)
    return crc


def _rows_at_once(dataset: h5py.Dataset) -> int:
    return max(1, READ_BYTES // (dataset.dtype.itemsize * int(np.prod(dataset.shape[1:]))))


def damage(path: Path) -> str | None:
    """What is wrong with a finished file, None when its bytes have the checksums that it states."""
    try:
        found = attributes(path)
        with h5py.File(path, "r") as file:
            for name in file:
                if checksum(file[name], len(file[name])) != found.get(f"crc32_{name}"):
                    return f"{path}: the checksum of `{name}` does not fit"
    except UsageError as error:
        return str(error)
    except OSError as error:
        return f"{path} cannot be read: {_reason(error)}"
    return None


def scales(path: Path) -> np.ndarray:
    """The scales of a training file, float64: medians of ||f||_2 / N^2, |tensor_j| and max|u|, then 1 and 1."""
    with h5py.File(path, "r") as file:
        fields, norms, largest = file["fields"], [], []
        step = _rows_at_once(fields)
        for i in range(0, len(fields), step):
            f, u = np.moveaxis(fields[i:i + step], 1, 0)
            norms.append(np.sqrt(np.square(f, dtype=np.float64).sum((1, 2))) / f.shape[-1] ** 2)
            largest.append(np.maximum(u.max((1, 2)), -u.min((1, 2))).astype(np.float64))
        tensor = np.abs(file["tensor"][:].astype(np.float64))
    middle = [np.median(np.concatenate(norms)), *np.median(tensor, 0), np.median(np.concatenate(largest))]
    return np.array([*middle, 1.0, 1.0])


def write_scales(path: Path, target: Path) -> None:
    """Write the scales of a training file. Raises OSError."""
    values = scales(path)
    atomic_write(target, lambda file: np.save(file, values))


def scales_fit(path: Path, target: Path, coefficients: int) -> bool:
    """Tell whether there are scales that are newer than their training file and have the right form."""
    try:
        found = np.load(target, allow_pickle=False)
        return (found.shape == (coefficients + 4,) and bool(np.isfinite(found).all())
                and target.stat().st_mtime_ns >= path.stat().st_mtime_ns)
    except (OSError, ValueError, EOFError, AttributeError):
        return False


class Part(Claimable):
    """The folder in which a data file grows.

    HDF5 lays the file out, with all attributes, before the first row; rows are then written to their place in it as
    plain bytes. So a kill or a full disk never meets HDF5 at work, which would leave a broken file or crash.
    """

    def __init__(self, target: Path, shapes: Mapping[str, tuple[int, ...]], arguments: Mapping[str, Any],
                 values: Mapping[str, Any]) -> None:
        """Describe the file; nothing is touched on disk.

        `values` are its attributes. A part whose `arguments` are others is begun anew.
        """
        super().__init__(target.with_name(target.name + ".part"))
        self.target, self.shapes, self.arguments, self.values = target, shapes, dict(arguments), values
        self.data, self._progress = self.path / "data.h5", self.path / "progress.json"
        self.rows, self.residual, self.crc = 0, 0.0, dict.fromkeys(shapes, 0)
        self._offsets: dict[str, int] = {}
        self._file: FileIO | None = None
        self._saved = 0.0

    def open(self) -> int:
        """Give the number of rows that are there already, after a check of their checksums.

        Raises:
            OSError: where the folder cannot be written.
        """
        for temporary in self.path.glob("*.tmp"):
            temporary.unlink(missing_ok=True)
        reason = self._resume()
        if reason is not None:
            if reason:
                warn_once(f"{self.path} is begun anew: {reason}")
            self._progress.unlink(missing_ok=True)
            self.rows, self.residual, self.crc = 0, 0.0, dict.fromkeys(self.shapes, 0)
            self._lay_out()
        with h5py.File(self.data, "r") as file:
            self._offsets = {name: file[name].id.get_offset() for name in self.shapes}
        self._file = FileIO(self.data, "r+")
        self._saved = time.monotonic()
        return self.rows

    def _lay_out(self) -> None:
        """Create the file with its attributes and room for all rows."""
        with open(self.data, "wb") as file:  # what the disk refuses, it refuses here
            file.write(bytes(HEADER))
            file.truncate(HEADER + 4 * sum(math.prod(shape) for shape in self.shapes.values()))
        early = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        early.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        early.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        with h5py.File(self.data, "w") as file:
            for name, shape in self.shapes.items():
                space = h5py.h5s.create_simple(shape)
                h5py.h5d.create(file.id, name.encode(), h5py.h5t.IEEE_F32LE, space, early)
                file.attrs[f"crc32_{name}"] = 0
            file.attrs.update({**self.values, "residual": 0.0, "complete": False})

    def _resume(self) -> str | None:
        """Look at what is there; why it cannot be used ("" for nothing there), None when it can."""
        text = read_text(self._progress)
        if text is None:
            return ""
        try:
            state = json.loads(text)
            if state["arguments"] != self.arguments:
                return "it was made with other arguments"
            self.rows, self.residual, self.crc = state["rows"], state["residual"], state["crc"]
            with h5py.File(self.data, "r") as file:
                if {name: x.shape for name, x in file.items()} != self.shapes:
                    return "its datasets have another form"
                if any(checksum(file[name], self.rows) != self.crc[name] for name in self.shapes):
                    return "its checksum does not fit"
        except (OSError, ValueError, KeyError, TypeError) as error:
            return f"it cannot be read ({str(error).strip().partition(chr(10))[0]})"
        return None

    def append(self, chunk: Chunk) -> None:
        """Write the next rows. Raises OSError."""
        for name, array in chunk.arrays.items():
            data, place = memoryview(array).cast("B"), self._offsets[name] + self.rows * array[0].nbytes
            while data:
                written = os.pwrite(self._file.fileno(), data, place)
                data, place = data[written:], place + written
            self.crc[name] = zlib.crc32(array, self.crc[name])
        self.rows += len(array)
        self.residual = max(self.residual, chunk.residual)
        if time.monotonic() - self._saved >= SAVE_SECONDS:
            self.save()

    def save(self) -> None:
        """Note how far the file is. The rows are in the hands of the system, which a kill does not touch."""
        write_json(self._progress, {"arguments": self.arguments, "rows": self.rows, "residual": self.residual,
                                    "crc": self.crc})
        self._saved = time.monotonic()

    def finish(self) -> None:
        """Fill in residual and checksums, move the file to its name and remove the folder. Raises OSError."""
        os.fsync(self._file.fileno())
        self._file.close()
        with h5py.File(self.data, "r+") as file:
            for name, crc in self.crc.items():
                file.attrs.modify(f"crc32_{name}", crc)
            file.attrs.modify("residual", self.residual)
            file.attrs.modify("complete", True)
        with open(self.data, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(self.data, self.target)
        self.remove()

    def close(self) -> None:
        """Close the file and release the folder, which stays for the next start unless nothing was saved."""
        if self._file is not None:
            self._file.close()
        if self._progress.exists():
            self.release()
        else:
            self.remove()

    def remove(self) -> None:
        """Remove the folder, if it is ours."""
        for path in (self._progress, self.data):
            path.unlink(missing_ok=True)
        self.release()
        with suppress(OSError):  # the next process may have it already
            self.path.rmdir()

    def tidy(self) -> None:
        """Remove the folder that a process left which was killed just after it had moved the file to its name."""
        with suppress(OSError):
            if self.path.exists() and self.claim():
                self.remove()
