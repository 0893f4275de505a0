"""A stand-in for PyTorch, as far as a check of an installation goes: which GPUs it sees, and whether a kernel runs.

Nothing is computed on a GPU. What is true to PyTorch is when it refuses: a driver that is too old for the CUDA of the
build, a card for which the build holds no code.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import chain
from math import isclose

from . import cuda, version

__version__ = version.__version__

_random = random.Random(0)


class Tensor:
    """A matrix that lies on a device."""

    def __init__(self, rows: Sequence[Sequence[float]], device: str = "cpu") -> None:
        self.device = str(device)
        self._rows = [list(row) for row in rows]

    def __matmul__(self, other: Tensor) -> Tensor:
        cuda.run_kernel_on(self.device)
        columns = list(zip(*other._rows, strict=True))
        product = [[sum(a * b for a, b in zip(row, column, strict=True)) for column in columns] for row in self._rows]
        return Tensor(product, self.device)

    def to(self, device: str) -> Tensor:
        if str(device).startswith("cuda"):
            cuda.init()
        return Tensor(self._rows, device)

    def cpu(self) -> Tensor:
        return self.to("cpu")

    def tolist(self) -> list[list[float]]:
        return [list(row) for row in self._rows]


def tensor(rows: Sequence[Sequence[float]], device: str = "cpu") -> Tensor:
    return Tensor(rows).to(device)


def manual_seed(seed: int) -> None:
    _random.seed(seed)


def rand(rows: int, columns: int) -> Tensor:
    return Tensor([[_random.random() for _ in range(columns)] for _ in range(rows)])


def allclose(left: Tensor, right: Tensor, rtol: float = 1e-5, atol: float = 1e-8) -> bool:
    pairs = zip(chain(*left.tolist()), chain(*right.tolist()), strict=True)
    return all(isclose(a, b, rel_tol=rtol, abs_tol=atol) for a, b in pairs)
