"""Settings and builds that make a library, ours too, slower than it could be."""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import sllmbench
from sllmbench import _native
from sllmbench.doctor import effects
from sllmbench.doctor.finding import Finding, Subject, bad, ok, unmeasured
from sllmbench.errors import InputError
from sllmbench.matmuls import ggml_library

if TYPE_CHECKING:
    from collections.abc import Iterator

_OPENMP = re.compile(r"(?:^|/)lib(gomp|iomp5|omp)(?:-\w+)?\.so", re.MULTILINE)
_PINNING = ("GOMP_CPU_AFFINITY", "KMP_AFFINITY", "OMP_PLACES", "OMP_PROC_BIND")
_WAITING = ("GOMP_SPINCOUNT", "KMP_BLOCKTIME", "OMP_WAIT_POLICY")
_COUNTS = ("MKL_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_FORCED = (
    "ATEN_CPU_CAPABILITY",
    "DNNL_MAX_CPU_ISA",
    "ONEDNN_MAX_CPU_ISA",
    "MKL_ENABLE_INSTRUCTIONS",
)
_REBUILD = "pip install --no-build-isolation -e ."


def thread_count(subject: Subject) -> Iterator[Finding]:
    """Our kernels take $SLLMBENCH_THREADS for all that may be used."""
    title = name = "SLLMBENCH_THREADS"
    usable = len(subject.allowed)
    text = subject.environ.get(name, "")
    if not text or int(text) == usable:
        yield ok(title, text or "not set", "environment")
        return
    few, many = sorted((int(text), usable))
    yield bad(
        "problem",
        title,
        f"{text} threads on {usable} usable processors",
        subject.gauge(effects.matmul_threads, few, many),
        remedy=f"unset {name}",
        source="environment",
    )


def instruction_set(subject: Subject) -> Iterator[Finding]:
    """Our kernels take $SLLMBENCH_ISA for the best."""
    title = name = "SLLMBENCH_ISA"
    forced, best = subject.environ.get(name, ""), _native.supported_isas()[-1]
    if forced in ("", best):
        yield ok(title, forced or f"not set: {best}", "environment")
        return
    yield bad(
        "problem",
        title,
        f"{forced}; {best} can run here",
        subject.gauge(effects.matmul_isa, forced, best),
        remedy=f"unset {name}",
        source="environment",
    )


def library_threads(subject: Subject) -> Iterator[Finding]:
    """Other libraries take these; a run gives torch its number of threads itself."""
    usable = len(subject.allowed)
    for name in _COUNTS:
        text = subject.environ.get(name, "")
        if text and text != str(usable):
            yield bad(
                "notice",
                name,
                f"{text} on {usable} usable processors",
                unmeasured("sllmbench tells torch and its peers how many threads to start"),
                remedy=f"unset {name}",
                source="environment",
            )


def openmp_settings(subject: Subject) -> Iterator[Finding]:
    """OpenMP pins the thread that loads it, and what that starts is born on the same processor."""
    pinning = tuple((n, subject.environ[n]) for n in _PINNING if subject.environ.get(n))
    if pinning:
        yield bad(
            "problem",
            "OpenMP's pinning",
            ", ".join(f"{name}={value}" for name, value in pinning),
            subject.gauge(effects.pinned_by_openmp, pinning),
            remedy="unset " + " ".join(name for name, _ in pinning),
            source="environment",
        )
    for name in _WAITING:
        if subject.environ.get(name):
            yield bad(
                "notice",
                name,
                f"{subject.environ[name]}: how OpenMP's threads wait for work",
                unmeasured("it depends on the time between products"),
                remedy=f"unset {name}",
                source="environment",
            )


def forced_libraries(subject: Subject) -> Iterator[Finding]:
    """Torch and the libraries in it can be held to an older instruction set."""
    for name in _FORCED:
        if value := subject.environ.get(name):
            yield bad(
                "problem",
                name,
                f"{value}: torch may not use the best instruction set of this machine",
                subject.gauge(effects.torch_without, name, value),
                remedy=f"unset {name}",
                source="environment",
            )


def openmp_runtimes(_: Subject) -> Iterator[Finding]:
    """Two kinds of runtime in one process have two crews of threads, each of all processors."""
    title = "OpenMP runtimes"
    owners: dict[str, set[str]] = {}
    for package in metadata.distributions():
        for match in _OPENMP.finditer(package.read_text("RECORD") or ""):
            owners.setdefault(f"lib{match[1]}", set()).add(package.name)
    listed = "; ".join(f"{kind} in {', '.join(sorted(of))}" for kind, of in sorted(owners.items()))
    if len(owners) < 2:
        yield ok(title, listed or "none in an installed package")
        return
    yield bad(
        "notice",
        title,
        listed,
        unmeasured("only a process that loads both feels it; sllmbench gives each path its own"),
        advice="load one of them in a process",
        source="RECORD of the installed packages",
    )


def extension(_: Subject) -> Iterator[Finding]:
    """The kernels that run may be others than the sources say."""
    title = "extension"
    built = Path(_native.__file__)
    if not _native.optimized:
        yield bad(
            "problem",
            f"{title}'s build",
            "compiled without optimisation",
            unmeasured("the optimised one is not here"),
            remedy=f"{_REBUILD} -C cmake.build-type=Release",
            source=built,
        )
    sources = Path(sllmbench.__file__).parents[1]
    built_at = built.stat().st_mtime
    newer = [
        file
        for file in (sources / "csrc").rglob("*")
        if file.suffix in (".cpp", ".h", ".cmake") and file.stat().st_mtime > built_at
    ]
    if newer:
        latest = max(newer, key=lambda file: file.stat().st_mtime)
        yield bad(
            "problem",
            f"{title}'s age",
            f"sources newer than it: {len(newer)}, the newest {latest.relative_to(sources)}",
            unmeasured("the newer sources are not compiled"),
            remedy=f"cd {sources} && {_REBUILD}",
            source=built,
        )
    if _native.optimized and not newer:
        yield ok(title, "optimised, no older than its sources", built)


def ggml_build(_: Subject) -> Iterator[Finding]:
    """A ggml without the machine's instructions is a slow peer, and the comparison unfair."""
    title = "ggml's build"
    folder = ggml_library.folder()
    if isinstance(folder, str):
        return
    try:
        has = ggml_library.library().isa().split("+")
    except InputError as error:
        yield bad("notice", title, str(error), unmeasured("it does not load"), source=folder)
        return
    missing = [isa for isa in _native.supported_isas() if isa not in ("generic", *has)]
    if not missing:
        yield ok(title, f"has {', '.join(has)}", folder)
        return
    package = "llama-cpp-python"
    yield bad(
        "problem",
        title,
        f"lacks {', '.join(missing)}, has {', '.join(has)}",
        unmeasured("a build that has them is not here"),
        remedy="CMAKE_ARGS=-DGGML_NATIVE=ON pip install --force-reinstall --no-deps --no-binary"
        f" {package} {package}",
        source=folder,
    )


CHECKS = (
    thread_count,
    instruction_set,
    library_threads,
    openmp_settings,
    forced_libraries,
    openmp_runtimes,
    extension,
    ggml_build,
)
