"""The machine code of each kernel in a cubin, which is a 64-bit ELF file."""

from __future__ import annotations

import struct
from collections.abc import Mapping

from graphc.errors import CompilerBug

_SECTION = struct.Struct("<IIQQQQIIQQ")
_PREFIX = ".text."


def kernel_codes(cubin: bytes) -> Mapping[str, bytes]:
    """The instructions of each kernel by its name.

    The format is that of the System V ABI: the header says where the table of sections is, and a
    section's first number where its name stands in the section of names.
    """
    if cubin[:5] != b"\x7fELF\x02":
        raise CompilerBug("a cubin is not a 64-bit ELF file")
    [table] = struct.unpack_from("<Q", cubin, 0x28)
    size, count, names = struct.unpack_from("<HHH", cubin, 0x3A)
    sections = [_SECTION.unpack_from(cubin, table + n * size) for n in range(count)]
    texts = sections[names][4]
    codes = {}
    for name, _, _, _, start, length, *_ in sections:
        end = cubin.index(b"\0", texts + name)
        label = cubin[texts + name : end].decode()
        if label.startswith(_PREFIX):
            codes[label.removeprefix(_PREFIX)] = cubin[start : start + length]
    return codes
