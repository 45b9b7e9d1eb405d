"""What a device program is fed: arrays that are copied ahead, arrays that are there already."""

from __future__ import annotations

import numpy as np

from graphc.backends.cuda.arrays import DeviceArray
from graphc.backends.cuda.driver import DeviceMemory, Driver
from graphc.backends.cuda.foreign import ForeignArray
from graphc.errors import user_error
from graphc.ir.graph import Node
from graphc.ops.messages import describe


class Slot:
    """Arrays of one batch that are copied to the device ahead of its turn."""

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self.owners: dict[Node, object] = {}
        self.arrays: dict[int, tuple[np.ndarray, DeviceArray]] = {}

    def begin(self, number: int, array: np.ndarray) -> DeviceMemory:
        """Begin to copy an array, which may change as soon as this returns."""
        if number not in self.arrays:
            bytes_ = self.driver.pinned(array.nbytes)
            held = DeviceArray(self.driver, array.shape, array.dtype)
            self.arrays[number] = bytes_.view(array.dtype).reshape(array.shape), held
        pinned, held = self.arrays[number]
        pinned[...] = array
        self.driver.copy_ahead(held.memory, pinned)
        return held.memory


def check_foreign(node: Node, array: ForeignArray) -> None:
    """Refuse an array on the device that is not what was declared."""
    same = (array.shape, array.dtype) == (node.shape, node.dtype.numpy)
    if same and array.contiguous:
        return
    fault = "does not lie in one piece, row-major" if same else "has another shape or element type"
    raise user_error(
        f"the array on the device that is fed for '{node.label}' {fault}",
        *describe([node], ["declared"]),
        f"fed:      {array.dtype}{list(array.shape)}",
        "feed a contiguous array of the declared shape and type, or a NumPy array, which is copied",
    )
