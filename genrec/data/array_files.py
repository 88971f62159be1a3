"""Arrays in `.npy` files: a writer that appends, and memory-mapped opening."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

import numpy as np
from numpy import ndarray

HEADER = 128  # bytes of a .npy header of version 1 for any number of rows; written again when that number is known


class ArrayWriter:
    """A context manager that appends to an array of one dimension."""

    def __init__(self, path: Path, dtype: type[np.generic]) -> None:
        self.path, self.dtype, self.rows = path, np.dtype(dtype), 0
        self._file = path.open("wb")
        self._file.write(bytes(HEADER))

    def append(self, values: ndarray) -> None:
        """Append values [rows], cast to the array's type."""
        self._file.write(np.ascontiguousarray(values, dtype=self.dtype).tobytes())
        self.rows += len(values)

    def __enter__(self) -> ArrayWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        header = f"{{'descr': {self.dtype.str!r}, 'fortran_order': False, 'shape': ({self.rows},), }}".encode("ascii")
        self._file.seek(0)
        self._file.write(b"\x93NUMPY\x01\x00" + (HEADER - 10).to_bytes(2, "little") + header.ljust(HEADER - 11) + b"\n")
        self._file.close()


def open_array(path: Path) -> ndarray:
    """Open an array memory-mapped, copy on write: assignments change this process's memory and never the file."""
    array: ndarray = np.load(path, mmap_mode="c", allow_pickle=False)
    return array
