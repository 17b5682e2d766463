"""Protocol buffers' wire format, read by a schema: bytes in, dicts out.

A schema maps a message's name to its fields: number -> (name, kind). A kind is `int`, `str`,
`bytes`, the name of a message, `[kind]` for a repeated field, or `{kind}` for a map from names.
Fields that the schema does not know are skipped, as the format asks.
Source: https://protobuf.dev/programming-guides/encoding
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from vlrt_runtime.errors import PackageError

__all__ = ["Schema", "decode"]

Schema = Mapping[str, Mapping[int, tuple[str, str]]]

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
FIXED = {FIXED64: 8, FIXED32: 4}
MAX_DEPTH = 64  # a program nests about 12 messages; more is an attack on the stack


def decode(data: bytes | memoryview, message: str, schema: Schema) -> dict[str, Any]:
    """Reads one message.

    Raises:
        PackageError: the bytes end early, nest too deep or are no such message.
    """
    return _message(memoryview(data), message, schema, 0)


def _message(data: memoryview, message: str, schema: Schema, depth: int) -> dict[str, Any]:
    if depth > MAX_DEPTH:
        raise PackageError(f"{message}: nested deeper than {MAX_DEPTH}; do not use this package")
    fields = schema[message]
    out: dict[str, Any] = {}
    for number, wire, value in _fields(data, message):
        if number not in fields:
            continue
        name, kind = fields[number]
        if kind[0] == "[":
            items = out.setdefault(name, [])
            if kind == "[int]" and wire == LENGTH:
                items.extend(_packed(value, message))
            else:
                items.append(_value(value, wire, kind[1:-1], name, schema, depth))
        elif kind[0] == "{":
            key, item = _entry(value, wire, kind[1:-1], name, schema, depth)
            out.setdefault(name, {})[key] = item
        else:
            out[name] = _value(value, wire, kind, name, schema, depth)
    return out


def _value(value: Any, wire: int, kind: str, name: str, schema: Schema, depth: int) -> Any:
    if (kind == "int") != (wire == VARINT):
        raise PackageError(f"{name}: wire type {wire} where {kind} is expected; export it again")
    if kind == "int":
        return value - (1 << 64) if value >> 63 else value
    if kind == "bytes":
        return value
    if kind == "str":
        try:
            return bytes(value).decode("utf-8")
        except UnicodeDecodeError as error:
            raise PackageError(f"{name}: not UTF-8 text; export the package again") from error
    return _message(value, kind, schema, depth + 1)


def _entry(
    value: Any, wire: int, kind: str, name: str, schema: Schema, depth: int
) -> tuple[str, Any]:
    if wire != LENGTH:
        raise PackageError(f"{name}: wire type {wire} where a map is expected; export it again")
    key, item = "", memoryview(b"")
    for number, inner, content in _fields(value, name):
        if inner != LENGTH:
            continue
        if number == 1:
            key = _value(content, inner, "str", name, schema, depth)
        elif number == 2:
            item = content
    return key, _value(item, LENGTH, kind, name, schema, depth)


def _fields(data: memoryview, message: str) -> Iterator[tuple[int, int, Any]]:
    position, end = 0, len(data)
    while position < end:
        tag, position = _varint(data, position, message)
        wire = tag & 7
        if wire == VARINT:
            value, position = _varint(data, position, message)
        else:
            if wire == LENGTH:
                size, position = _varint(data, position, message)
            elif wire in FIXED:
                size = FIXED[wire]
            else:
                raise PackageError(f"{message}: wire type {wire} is unknown; export it again")
            if size > end - position:
                raise PackageError(
                    f"{message}: ends early, {size} bytes expected and {end - position} found; "
                    "export the package again"
                )
            value = data[position : position + size]
            position += size
        yield tag >> 3, wire, value


def _packed(data: memoryview, message: str) -> Iterator[int]:
    position = 0
    while position < len(data):
        value, position = _varint(data, position, message)
        yield value - (1 << 64) if value >> 63 else value


def _varint(data: memoryview, position: int, message: str) -> tuple[int, int]:
    result = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            raise PackageError(f"{message}: ends within a number; export the package again")
        byte = data[position]
        position += 1
        result |= (byte & 127) << shift
        if byte < 128:
            return result & ((1 << 64) - 1), position
    raise PackageError(f"{message}: a number of more than 64 bits; export the package again")
