from __future__ import annotations

import ast
import inspect
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from sllmbench import _native

# What each level needs, in /proc/cpuinfo's words; written again so that a slip in isa.cmake shows.
AVX2 = {"avx2", "fma", "f16c"}
AVX512 = AVX2 | {"avx512f", "avx512bw", "avx512dq", "avx512vl"}
NEEDED: dict[str, set[str]] = {
    "generic": set(),
    "avx2": AVX2,
    "avx512": AVX512,
    "avx512_vnni": AVX512 | {"avx512_vnni"},
    "amx_int8": AVX512 | {"avx512_vnni", "amx_tile", "amx_int8"},
}
STUB = Path(__file__).parents[1] / "sllmbench" / "_native.pyi"
X86 = platform.machine() == "x86_64"


def call(expression: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Print an expression in a fresh interpreter with ``env`` set."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("SLLMBENCH_")}
    return subprocess.run(
        [sys.executable, "-P", "-c", f"from sllmbench import _native; print({expression})"],
        env=clean | env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def last_line(result: subprocess.CompletedProcess[str]) -> str:
    return result.stderr.strip().splitlines()[-1]


def test_levels_of_this_build() -> None:
    assert _native.compiled_isas() == (list(NEEDED) if X86 else ["generic"])


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="no /proc/cpuinfo")
def test_supported_levels_are_what_the_kernel_says() -> None:
    cpuinfo = Path("/proc/cpuinfo").read_text()
    flags = next(
        (line.split(":")[1].split() for line in cpuinfo.splitlines() if line.startswith("flags")),
        [],
    )
    for isa in _native.compiled_isas():
        missing = NEEDED[isa] - set(flags)
        assert (isa in _native.supported_isas()) == (not missing)
        reason = _native.isa_unsupported_reason(isa)
        if missing:
            assert reason is not None
            assert any(feature in reason for feature in missing)
        else:
            assert reason is None


def test_the_default_is_the_last_supported() -> None:
    assert call("_native.active_isa()").stdout.strip() == _native.supported_isas()[-1]


@pytest.mark.parametrize("isa", _native.compiled_isas())
def test_a_forced_level_is_used_or_refused(isa: str) -> None:
    result = call("_native.active_isa()", SLLMBENCH_ISA=isa)
    reason = _native.isa_unsupported_reason(isa)
    if reason is None:
        assert result.stdout.strip() == isa
    else:
        assert last_line(result) == (
            f"ValueError: SLLMBENCH_ISA: instruction set '{isa}' cannot run here: {reason}"
        )


def test_an_unknown_level_is_an_error_at_each_use_but_not_at_import() -> None:
    assert call("_native.supported_isas()", SLLMBENCH_ISA="sse9").returncode == 0
    twice = "[_native.active_isa() for _ in range(2)]"
    assert last_line(call(twice, SLLMBENCH_ISA="sse9")) == (
        "ValueError: SLLMBENCH_ISA: unknown instruction set 'sse9'; this build has "
        + ", ".join(_native.compiled_isas())
    )
    with pytest.raises(ValueError, match="unknown instruction set 'sse9'"):
        _native.isa_unsupported_reason("sse9")


def test_threads_are_the_cpus_of_the_affinity_mask() -> None:
    assert call("_native.threads()").stdout.strip() == str(len(os.sched_getaffinity(0)))
    one = "(__import__('os').sched_setaffinity(0, {min(__import__('os').sched_getaffinity(0))}), "
    assert call(one + "_native.threads())[1]").stdout.strip() == "1"


def test_threads_from_the_environment_and_from_set_threads() -> None:
    assert call("_native.threads()", SLLMBENCH_THREADS="3").stdout.strip() == "3"
    changed = "(_native.set_threads(5), _native.threads())[1]"
    assert call(changed, SLLMBENCH_THREADS="3").stdout.strip() == "5"


@pytest.mark.parametrize("text", ["0", "-1", "two", "2x", "513", " 2"])
def test_threads_that_are_no_number_of_threads(text: str) -> None:
    assert last_line(call("_native.threads()", SLLMBENCH_THREADS=text)) == (
        f"ValueError: SLLMBENCH_THREADS must be a number between 1 and 512, not '{text}'"
    )


@pytest.mark.parametrize("threads", [0, -1, 513])
def test_set_threads_refuses(threads: int) -> None:
    before = _native.threads()
    with pytest.raises(ValueError, match=f"threads must be between 1 and 512, not {threads}"):
        _native.set_threads(threads)
    assert _native.threads() == before


def test_read_bandwidth_is_of_this_world() -> None:
    for threads in (1, 2):
        assert 0.1 < _native.read_bandwidth_gbs(1 << 20, threads, 0.02) < 10_000


@pytest.mark.parametrize("isa", _native.supported_isas())
@pytest.mark.parametrize("kind", ["int8", "fp32"])
def test_peak_rate_is_of_this_world(kind: str, isa: str) -> None:
    assert 0.05 < _native.peak_gops(kind, isa, 1, 0.02) < 100_000  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("call_probe", "message"),
    [
        (lambda: _native.read_bandwidth_gbs(4096, 2, 0.1), "bytes must be at least 4096 a thread"),
        (lambda: _native.read_bandwidth_gbs(1 << 20, 0, 0.1), "threads must be between"),
        (lambda: _native.read_bandwidth_gbs(1 << 20, 1, 0.0), "seconds must be more than 0"),
        (lambda: _native.read_bandwidth_gbs(1 << 20, 1, float("nan")), "seconds must be more"),
        (lambda: _native.peak_gops("int8", "sse9", 1, 0.1), "unknown instruction set"),
        (lambda: _native.peak_gops("fp16", "generic", 1, 0.1), "kind must be int8 or fp32"),  # type: ignore[arg-type]
        (lambda: _native.peak_gops("int8", "generic", 0, 0.1), "threads must be between"),
    ],
)
def test_probes_refuse(call_probe: object, message: str) -> None:
    assert callable(call_probe)
    with pytest.raises(ValueError, match=message):
        call_probe()


CROWD = """
import resource
from sllmbench import _native
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + (64 << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
for probe in (
    lambda: _native.peak_gops("fp32", "generic", 512, 0.01),
    lambda: _native.read_bandwidth_gbs(512 << 12, 512, 0.01),
):
    try:
        probe()
    except RuntimeError as error:
        print(error)
print(_native.peak_gops("fp32", "generic", 2, 0.01) > 0)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS")
def test_probes_say_when_a_thread_cannot_start() -> None:
    result = subprocess.run(
        [sys.executable, "-P", "-c", CROWD],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    *errors, again = result.stdout.splitlines()
    assert [error.split(":")[0].split()[:3] for error in errors] == [
        ["cannot", "start", "thread"]
    ] * 2
    assert again == "True"


def parameters(definition: ast.FunctionDef) -> list[tuple[str, str, str | None]]:
    """Each parameter's kind, name and default, `self` left out."""
    a = definition.args
    positional: list[ast.expr | None] = [None] * (len(a.args) - len(a.defaults))
    given = [
        *(
            ("positional", arg, default)
            for arg, default in zip(a.args, positional + a.defaults, strict=True)
        ),
        *(
            ("keyword", arg, default)
            for arg, default in zip(a.kwonlyargs, a.kw_defaults, strict=True)
        ),
    ]
    return [
        (kind, arg.arg, None if default is None else ast.unparse(default))
        for kind, arg, default in given
        if arg.arg != "self"
    ]


def compiled_parameters(function: object) -> list[tuple[str, str, str | None]]:
    signature = (inspect.getdoc(function) or "").splitlines()[0]
    definition = ast.parse(f"def {signature}: ...").body[0]
    assert isinstance(definition, ast.FunctionDef)
    return parameters(definition)


def test_the_stub_says_what_the_module_has() -> None:
    stub = ast.parse(STUB.read_text())
    functions = {node.name: node for node in stub.body if isinstance(node, ast.FunctionDef)}
    classes = {node.name: node for node in stub.body if isinstance(node, ast.ClassDef)}
    values = {ast.unparse(node.target) for node in stub.body if isinstance(node, ast.AnnAssign)}
    public = {name for name in dir(_native) if not name.startswith("_")}
    if _native.cuda_toolkit is None:  # a build without nvcc has no more of CUDA than that
        functions = {name: node for name, node in functions.items() if name[:5] != "cuda_"}
        classes = {name: node for name, node in classes.items() if name[:4] != "Cuda"}
    assert public == set(functions) | set(classes) | values
    for name, node in functions.items():
        assert compiled_parameters(getattr(_native, name)) == parameters(node), name
    for name, node in classes.items():
        compiled = getattr(_native, name)
        members = [item for item in node.body if isinstance(item, ast.FunctionDef)]
        assert {m for m in vars(compiled) if not m.startswith("_")} == {
            item.name for item in members if item.name != "__init__"
        }
        for item in members:
            if item.decorator_list:
                assert isinstance(inspect.getattr_static(compiled, item.name), property)
            else:
                assert compiled_parameters(getattr(compiled, item.name)) == parameters(item)
