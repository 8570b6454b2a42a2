"""Takes from shared objects what no loader reads: symbols and debugging information, half of what some wheels weigh.

`strip` would do it, but is part of a compiler's tools, which the base of an image does not have. What a process maps is
told by an object's program headers; sections are for linkers and debuggers. So everything behind the last segment goes,
and the header says that there are no sections.
"""

from __future__ import annotations

import struct
import sys
from pathlib import Path

_IDENTITY = b"\x7fELF\x02\x01"  # 64 bits, little-endian
_PHOFF, _SHOFF, _PHENTSIZE, _SHENTSIZE = 32, 40, 54, 58


def stripped(content: bytes) -> bytes:
    """The object without its sections; as it is where it is none, or for another kind of machine."""
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
