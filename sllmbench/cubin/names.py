"""Mangled names → names to read."""

from __future__ import annotations

import ctypes
import re
from functools import cache


def demangle(mangled: str) -> str:
    """The C++ name, by the C++ library that the extension itself is linked with.

    A name that is none of C++ (``extern "C"``) stays as it is.
    """
    function = _library().__cxa_demangle
    status = ctypes.c_int()
    address = function(mangled.encode(), None, None, ctypes.byref(status))
    if not address:
        return mangled
    try:
        return ctypes.string_at(address).decode()
    finally:
        _library().free(ctypes.c_void_p(address))


def short(demangled: str) -> str:
    """Name and template arguments, without result type, namespaces and parameters."""
    name = _without_parameters(demangled.replace("(anonymous namespace)::", ""))
    depth, start = 0, 0
    for i, sign in enumerate(name):
        depth += (sign in "<(") - (sign in ">)")
        if depth == 0 and (sign == " " or name[i : i + 2] == "::"):
            start = i + (1 if sign == " " else 2)
    return re.sub(r"\b(?:\w+::)+(?=\w)", "", name[start:])


def _without_parameters(name: str) -> str:
    if not name.endswith(")"):
        return name
    depth = 0
    for i in range(len(name) - 1, -1, -1):
        depth += (name[i] == ")") - (name[i] == "(")
        if depth == 0:
            return name[:i]
    return name


@cache
def _library() -> ctypes.CDLL:
    library = ctypes.CDLL("libstdc++.so.6")
    library.__cxa_demangle.restype = ctypes.c_void_p
    return library
