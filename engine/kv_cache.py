"""Keys and values of the running requests: one preallocated row each, written in place."""

from __future__ import annotations

import torch
from torch import Tensor

from engine.architecture import Architecture


class KVCache:
    """Rows of keys and values, and which of them are free.

    Args:
        rows: requests that can run at once.
        length: tokens a row holds.

    Attributes:
        keys, values: [layers, rows, kv_heads, length, head_dim]. On a CPU the memory is touched
            only as far as tokens were written.
    """

    def __init__(
        self,
        architecture: Architecture,
        rows: int,
        length: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        shape = (architecture.num_layers, rows, architecture.num_kv_heads, length)
        self.keys = torch.zeros(*shape, architecture.head_dim, dtype=dtype, device=device)
        self.values = torch.zeros_like(self.keys)
        self.num_rows, self.length = rows, length
        self._free = list(range(rows))

    @property
    def num_used(self) -> int:
        """Rows in use."""
        return self.num_rows - len(self._free)

    def allocate(self) -> int | None:
        """The lowest free row, or None; low rows keep a step's rows close together."""
        return self._free.pop(0) if self._free else None

    def free(self, row: int) -> None:
        """Give a row back."""
        assert row not in self._free, f"row {row} was freed twice"
        self._free.append(row)
        self._free.sort()

    def save(self, row: int, length: int) -> Tensor:
        """A copy of a row's first tokens: [2, layers, kv_heads, length, head_dim]."""
        return torch.stack((self.keys[:, row, :, :length], self.values[:, row, :, :length]))

    def restore(self, row: int, saved: Tensor, length: int) -> None:
        """Write the first tokens of a saved row to the front of a row."""
        self.keys[:, row, :, :length] = saved[0, :, :, :length]
        self.values[:, row, :, :length] = saved[1, :, :, :length]

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy the first tokens of one row to another."""
        self.keys[:, target, :, :length] = self.keys[:, source, :, :length]
        self.values[:, target, :, :length] = self.values[:, source, :, :length]

    @property
    def token_bytes(self) -> int:
        """Bytes that one token takes in all layers."""
        return 2 * self.keys[:, 0, :, 0].numel() * self.keys.element_size()
