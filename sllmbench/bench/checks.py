"""What every measurement of several paths checks of its arguments, and what it takes for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

from sllmbench import _native, paths, runners
from sllmbench.bench.interpreters import inspect
from sllmbench.errors import InputError
from sllmbench.hardware import cuda
from sllmbench.paths import Arithmetic

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sllmbench.bench.subjects import Subjects

_REFERENCES = ("fp32", "bf16", "fp16")


def check_arithmetic(arithmetic: str | None, device: str = "cpu") -> Arithmetic:
    """How our own kernels are to compute; None takes the device's usual way.

    Raises:
        InputError: there is no such way.
    """
    match arithmetic or cuda.usual_arithmetic(device):
        case "exact":
            return "exact"
        case "int8":
            return "int8"
    choices = " or ".join(get_args(Arithmetic))
    raise InputError(f"unknown arithmetic {arithmetic!r}; choose {choices}")


def choose_threads(threads: int | None) -> int:
    """The threads asked for, or with None what the environment or the machine says.

    Raises:
        InputError: fewer than one, or a bad SLLMBENCH_THREADS or SLLMBENCH_ISA.
    """
    if threads is not None and threads < 1:
        raise InputError(f"threads must be at least 1, not {threads}")
    try:
        _native.active_isa()
        return _native.threads() if threads is None else threads
    except ValueError as error:
        raise InputError(str(error)) from error


def choose_reference(chosen: Sequence[str]) -> str:
    """The path that others are compared with where none is named."""
    return next((path for path in _REFERENCES if path in chosen), chosen[0])


def check_names(names: Sequence[str], reference: str | None) -> None:
    """Refuse no path, one given twice and a reference that is not among them.

    Raises:
        InputError: one of these.
    """
    if not names:
        raise InputError("no paths to run; `sllmbench paths` lists them")
    twice = next((name for i, name in enumerate(names) if name in names[:i]), None)
    if twice is not None:
        raise InputError(f"path {twice!r} is given twice")
    if reference is not None and reference not in names:
        raise InputError(f"the reference {reference!r} is not among the paths {', '.join(names)}")


def runnable(
    subjects: Subjects,
    names: Sequence[str] | None,
    interpreters: Mapping[str, str],
    arithmetic: Arithmetic = "int8",
    device: str = "cpu",
) -> tuple[str, ...]:
    """The paths asked for, or with None the default ones that can run.

    Raises:
        InputError: one that was asked for cannot run, an interpreter cannot run sllmbench, or it or
            a model is of a path that was not asked for.
    """
    chosen = paths.default_paths(subjects.main, device) if names is None else tuple(names)
    subjects.check_paths(chosen)
    unused = next((name for name in interpreters if name not in chosen), None)
    if unused is not None:
        raise InputError(f"--in names {unused}, which is not among the paths {', '.join(chosen)}")
    installed = {name: inspect(name, python) for name, python in interpreters.items()}
    for name in chosen:
        path = runners.resolve(name, arithmetic, device)
        reason = path.unsupported(subjects.of(name), installed.get(name))
        if reason is not None:
            raise InputError(f"path {name} cannot run here: {reason}")
    return chosen
