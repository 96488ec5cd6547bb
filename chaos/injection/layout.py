"""The file that the library and its control share, described once: the C header is made from this."""

from __future__ import annotations

import ctypes
from typing import Any

from chaos.injection.faults import Action, Call, File

VARIABLE = "CHAOS_CONTROL"
"""Environment variable with the path of the file."""

MAGIC = 0x736F616863_0001  # "chaos" and the version of the layout
SLOTS = 16
FOLDER = 4096

_C_NAMES: dict[Any, str] = {ctypes.c_uint64: "uint64_t", ctypes.c_int64: "int64_t", ctypes.c_char: "char"}


class Slot(ctypes.Structure):
    """A place for one fault; while it changes, its version is odd."""

    _fields_ = (
        ("version", ctypes.c_uint64),
        ("action", ctypes.c_uint64),
        ("calls", ctypes.c_uint64),
        ("files", ctypes.c_uint64),
        ("error", ctypes.c_int64),
        ("nanoseconds", ctypes.c_int64),
        ("threshold", ctypes.c_uint64),  # of 2 ** 32: the probability
        ("remaining", ctypes.c_int64),  # negative for no limit
        ("pid", ctypes.c_int64),
        ("hits", ctypes.c_uint64),
    )


class Control(ctypes.Structure):
    """The whole file."""

    _fields_ = (
        ("magic", ctypes.c_uint64),
        ("size", ctypes.c_uint64),
        ("armed", ctypes.c_uint64),  # the calls to which something may happen
        ("seed", ctypes.c_uint64),
        ("hits", ctypes.c_uint64 * len(Call)),
        ("folder_length", ctypes.c_uint64),
        ("folder", ctypes.c_char * FOLDER),
        ("slots", Slot * SLOTS),
    )


def header() -> str:
    """The layout and the numbers in C, with checks that the compiler sees what Python sees."""
    lines = [
        "/* Made by chaos/injection/layout.py. */",
        "#include <stdatomic.h>",
        "#include <stddef.h>",
        "#include <stdint.h>",
        f'#define CONTROL_VARIABLE "{VARIABLE}"',
        f"#define CONTROL_MAGIC UINT64_C({MAGIC})",
        f"#define SLOTS {SLOTS}",
        *(f"#define CALL_{one.name} UINT64_C({one.value})" for one in Call),
        *(f"#define FILE_{one.name} UINT64_C({one.value})" for one in (*File, File.ANY)),
        *(f"#define ACTION_{one.name} UINT64_C({one.value})" for one in Action),
        *_declaration("slot", Slot),
        *_declaration("control", Control),
    ]
    return "\n".join(lines) + "\n"


def _declaration(name: str, structure: type[ctypes.Structure]) -> list[str]:
    members: list[str] = []
    checks = [f'_Static_assert(sizeof(struct {name}) == {ctypes.sizeof(structure)}, "size of {name}");']
    for field in structure._fields_:
        member: str = field[0]
        kind: Any = field[1]
        count = ""
        if issubclass(kind, ctypes.Array):
            count = f"[{kind._length_}]"
            kind = kind._type_
        members.append(f"    {_c_name(kind)} {member}{count};")
        offset = getattr(structure, member).offset
        checks.append(f'_Static_assert(offsetof(struct {name}, {member}) == {offset}, "{name}.{member}");')
    return [f"struct {name} {{", *members, "};", *checks]


def _c_name(kind: Any) -> str:
    if issubclass(kind, ctypes.Structure):
        return f"struct {kind.__name__.lower()}"
    name = _C_NAMES[kind]
    return name if kind is ctypes.c_char else f"_Atomic {name}"
