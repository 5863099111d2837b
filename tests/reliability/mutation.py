"""Changes of files, by draws: of bytes anywhere, of what a JSON text or a zip archive consists of, of a header."""

from __future__ import annotations

import copy
import io
import json
import random
import struct
import zipfile
from collections.abc import Callable
from typing import Any

Mutate = Callable[[bytes, random.Random], bytes]
_NUMBERS = (-1, 0, 1, 3, 7, 255, 2**15, 2**31 - 1, 2**31, 2**32, 2**53, 2**62, 2**63 - 1)
_VALUES: tuple[Any, ...] = (
    *(None, True, False, -1, 0, 1, 7, 2**31, 2**63, 10**30, 0.5, -0.0, 1e308, "", "x", "tanh", [], [1], {}, {"a": 1}),
    *(float("nan"), float("inf"), "\0", "é" * 50, [[]] * 3, "../../x", "1", "2" * 400),
)


def bytes_anywhere(data: bytes, draw: random.Random) -> bytes:
    """A few bytes changed, put in, lost, doubled or exchanged, a number among them, or the end cut off."""
    for _ in range(draw.choice([1, 1, 1, 2, 5])):
        at, some = draw.randrange(len(data) + 1), draw.randbytes(draw.randrange(1, 20))
        number = draw.choice(_NUMBERS)
        kind = draw.randrange(8)
        if kind == 0:
            data = data[:at]
        elif kind == 1:
            data = data[:at] + some + data[at:]
        elif kind == 2:
            data = data[:at] + data[at + len(some) :]
        elif kind == 3:
            length = draw.randrange(1, 200)
            data = data[:at] + data[at : at + length] * draw.randint(2, 4) + data[at + length :]
        elif kind == 4:
            size, form = draw.choice([(1, "B"), (2, "<H"), (4, "<I"), (8, "<Q"), (4, ">I")])
            data = data[:at] + struct.pack(form, number % 2 ** (8 * size)) + data[at + size :]
        elif kind == 5 and at < len(data):
            data = data[:at] + bytes([data[at] ^ 1 << draw.randrange(8)]) + data[at + 1 :]
        elif kind == 6:
            other, length = draw.randrange(len(data) + 1), draw.randrange(1, 50)
            data = data[:at] + data[other : other + length] + data[at + length :]
        else:
            data = data[:at] + some + data[at + len(some) :]
        if not data:
            break
    return data


def value(content: Any, draw: random.Random) -> Any:
    """A copy of a JSON value with a part of it changed, lost, doubled or put elsewhere."""
    changed = {"": copy.deepcopy(content)}
    places: list[tuple[Any, Any]] = []

    def collect(holder: Any, key: Any) -> None:
        places.append((holder, key))
        inner = holder[key]
        if isinstance(inner, dict):
            for name in [*inner]:
                collect(inner, name)
        elif isinstance(inner, list):
            for i in range(len(inner)):
                collect(inner, i)

    collect(changed, "")
    for _ in range(draw.choice([1, 1, 2])):
        holder, key = draw.choice(places)
        if not (key in holder if isinstance(holder, dict) else key < len(holder)):
            continue
        kind, other = draw.randrange(5), draw.choice(places)
        if kind == 0 and key != "":
            del holder[key]
        elif kind == 1 and isinstance(holder, dict) and key != "":
            holder[str(draw.choice(_VALUES))] = holder.pop(key)
        elif kind == 2 and isinstance(other[0], dict) and other[1] in other[0]:
            holder[key] = copy.deepcopy(other[0][other[1]])
        elif kind == 3 and isinstance(holder[key], int) and not isinstance(holder[key], bool):
            holder[key] += draw.choice(_NUMBERS) * draw.choice([1, -1])
        else:
            holder[key] = copy.deepcopy(draw.choice(_VALUES))
    return changed.get("")


def json_text(data: bytes, draw: random.Random) -> bytes:
    """A JSON text of which a value has changed, or now and then a deep or a long one."""
    if draw.random() < 0.03:
        return draw.choice([b"[" * 100_000, b'{"a":' * 50_000, b"9" * 10_000, b"\xff\xfe", b"null", b'"x"'])
    return json.dumps(value(json.loads(data), draw)).encode()


def json_or_bytes(data: bytes, draw: random.Random) -> bytes:
    """A JSON text with a value changed, or other bytes with some changed."""
    return json_text(data, draw) if data[:1] == b"{" else bytes_anywhere(data, draw)


def safetensors(data: bytes, draw: random.Random) -> bytes:
    """A safetensors file with another header, before the same numbers; JSON within the metadata changes too."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    inner = [name for name, text in header.get("__metadata__", {}).items() if text[:1] in "[{"]
    if inner and draw.random() < 0.4:
        name = draw.choice(inner)
        header["__metadata__"][name] = json_text(header["__metadata__"][name].encode(), draw).decode("utf-8", "replace")
    else:
        header = value(header, draw)
    text = json.dumps(header).encode()
    claimed = draw.choice([len(text)] * 9 + [draw.choice(_NUMBERS) % 2**64])
    return struct.pack("<Q", claimed) + text + data[8 + length :]


def zipped(member: Mutate) -> Mutate:
    """An archive with a member changed, lost, named otherwise, doubled, or packed in another way."""

    def mutate(data: bytes, draw: random.Random) -> bytes:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = [(info.filename, archive.read(info)) for info in archive.infolist()]
        at, kind = draw.randrange(len(members)), draw.randrange(6)
        name, content = members[at]
        if kind == 0:
            del members[at]
        elif kind == 1:
            members[at] = (draw.choice(["x", "y.npy", "", "../x.npy", "x.npy", "manifest.json"]), content)
        elif kind == 2:
            members.append((draw.choice(members)[0], content))
        else:
            members[at] = (name, member(content, draw))
        packed = io.BytesIO()
        methods = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
        with zipfile.ZipFile(packed, "w") as archive:
            for name, content in members:
                archive.writestr(zipfile.ZipInfo(name), content, draw.choice(methods))
        return packed.getvalue()

    return mutate


def npy(data: bytes, draw: random.Random) -> bytes:
    """An array with another header: its dtype, order, shape or version."""
    if data[:6] != b"\x93NUMPY":
        return bytes_anywhere(data, draw)
    length = int.from_bytes(data[8:10], "little")
    text = data[10 : 10 + length].decode("latin-1")
    shape = draw.choice(
        ["()", "(3,)", "(0, 4)", "(-1, 4)", f"({2**40}, 4)", f"(4, {2**62})", "(2, 2, 2)", "(600, 3, 1)"]
    )
    dtype = draw.choice(["<f8", ">f4", "|O", "<i8", "<c8", "|S4", "<U1", "|b1", "<M8[s]", "<f2", "|V8", ">i2", "x"])
    draws: list[Callable[[], str]] = [
        lambda: text.replace(text[text.index("(") : text.index(")") + 1], shape),
        lambda: text.replace("<f4", dtype),
        lambda: text.replace("False", "True"),
        lambda: bytes_anywhere(text.encode("latin-1"), draw).decode("latin-1"),
        lambda: text.replace("}", ", 'more': 1}"),
    ]
    changed = draw.choice(draws)().encode("latin-1", "replace")
    version = draw.choice([data[6:8]] * 9 + [bytes([draw.randrange(5), draw.randrange(3)])])
    return data[:6] + version + struct.pack("<H", len(changed) % 2**16) + changed + data[10 + length :]


def either(*ways: Mutate) -> Mutate:
    """One of several ways."""
    return lambda data, draw: draw.choice(ways)(data, draw)


def csv(data: bytes, draw: random.Random) -> bytes:
    """A table of text with a cell, a line or the separators changed."""
    lines = data.decode().splitlines()
    at = draw.randrange(len(lines))
    cells = lines[at].split(",")
    new = [
        "",
        "nan",
        "1e400",
        "-1e39",
        "x",
        '"',
        '"1"',
        " 1",
        "1,5",
        "0x1p3",
        "1_000",
        "\0",
        "+-1",
        "é",
        "1e-50",
        "true",
    ]
    kind = draw.randrange(5)
    if kind == 0:
        cells[draw.randrange(len(cells))] = draw.choice(new)
        lines[at] = ",".join(cells)
    elif kind == 1:
        lines[at] += draw.choice([",", ",1", "\r", ";", "\t", '"'])
    elif kind == 2:
        lines.insert(at, draw.choice(["", lines[0], "#", ",,,,,", lines[-1]]))
    elif kind == 3:
        del lines[at]
    else:
        return bytes_anywhere(data, draw)
    return draw.choice(["\n", "\n", "\r\n", "\r"]).join(lines).encode()
