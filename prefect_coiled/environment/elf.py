"""Which libraries a compiled file asks for, read of the file itself.

https://refspecs.linuxfoundation.org/elf/gabi4+/ch5.dynamic.html
"""

from __future__ import annotations

import struct

_LOAD, _DYNAMIC = 1, 2  # kinds of segments
_END, _NEEDED, _STRINGS = 0, 1, 5  # kinds of entries


def needed(content: bytes) -> tuple[str, ...]:
    """The names of the libraries that a file for 64 bits needs; none of what is no such file."""
    if content[:6] != b"\x7fELF\x02\x01":  # 64 bits, the lowest byte first, as all machines are
        return ()
    try:
        return _needed(content)
    except (struct.error, ValueError):
        return ()


def _needed(content: bytes) -> tuple[str, ...]:
    (start,), (size, count) = struct.unpack_from("<Q", content, 32), struct.unpack_from("<HH", content, 54)
    segments = [struct.unpack_from("<IIQQQQ", content, start + n * size) for n in range(count)]
    loaded = [(address, offset, length) for kind, _, offset, address, _, length in segments if kind == _LOAD]
    names: list[int] = []
    strings = 0
    for kind, _, offset, _, _, length in segments:
        for place in range(offset, offset + length, 16) if kind == _DYNAMIC else ():
            entry, value = struct.unpack_from("<qQ", content, place)
            if entry == _END:
                break
            if entry == _NEEDED:
                names.append(value)
            elif entry == _STRINGS:
                strings = value
    for address, offset, length in loaded:
        if address <= strings < address + length:
            table = strings - address + offset
            return tuple(_text(content, table + name) for name in names)
    return ()


def _text(content: bytes, place: int) -> str:
    return content[place : content.index(b"\0", place)].decode(errors="replace")
