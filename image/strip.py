"""Remove symbols and debugging information from shared objects, which is half the size of some wheels.

`strip` is part of a compiler's tools, which the base image does not have. A loader only needs the segments in an
object's program headers; sections are for linkers and debuggers. Therefore this program removes everything after the
last segment, and changes the header to say that there are no sections.
"""

from __future__ import annotations

import struct
import sys
from pathlib import Path

_IDENTITY = b"\x7fELF\x02\x01"  # 64 bits, little-endian
_PHOFF, _SHOFF, _PHENTSIZE, _SHENTSIZE = 32, 40, 54, 58


def stripped(content: bytes) -> bytes:
    """Return the object without its sections. Other files, and objects of other machines, are returned unchanged."""
    if not content.startswith(_IDENTITY):
        return content
    (start,) = struct.unpack_from("<Q", content, _PHOFF)
    size, count = struct.unpack_from("<HH", content, _PHENTSIZE)
    end = start + size * count
    for number in range(count):
        offset, _, _, length = struct.unpack_from("<QQQQ", content, start + number * size + 8)
        end = max(end, offset + length)
    header = bytearray(content[:end])
    struct.pack_into("<Q", header, _SHOFF, 0)
    struct.pack_into("<HHH", header, _SHENTSIZE, 0, 0, 0)
    return bytes(header)


def main(folders: list[str]) -> None:
    for folder in folders:
        for path in Path(folder).rglob("*.so*"):
            if path.is_file() and not path.is_symlink():
                path.write_bytes(stripped(path.read_bytes()))


if __name__ == "__main__":
    main(sys.argv[1:])
