"""Our kernels' machine code beside that of the kernels which people run on a T4 today.

    pip install 'sllmbench[cubin]'            # and nvcc in PATH; no GPU is needed
    python benchmarks/cubin_vs_peers.py       # downloads 100 MB, compiles for minutes
    python benchmarks/cubin_vs_peers.py --downloads FOLDER    # keeps what it downloaded there

Static figures, never times. Same nvcc for all but the rows that say otherwise:

- auto-gptq 0.7.1's sdist: `cuda_256` compiles, its host code against stand-ins for torch (below),
  which no device code sees. `exllama`, `exllamav2` and `marlin` do not: the sdist lacks every .cuh
  that their .cu files include (matrix.cuh and q_gemm_kernel_gptq.cuh hold the inner loops). For the
  two exllamas the machine code of the published wheel stands in, made by nvcc 12.1; marlin has no
  sm_75 code anywhere, it needs sm_80.
- llama-cpp-python 0.3.36's sdist: `mmvq.cu` up to its launchers, which would compile every type,
  with the two types of interest; the stored instance of `mmq` for each. cuBLAS's header is a
  stand-in, only host code names it.

Instructions per weight are those of one trip through the main loop, over the weights that a lane
multiplies in it; how many those are is said beside each kernel. Bytes per weight are the stored
format's, at groups of 128 where it has groups.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from sllmbench.cubin import Question, examine, tools
from sllmbench.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from sllmbench.record import KernelCode, MainLoop

CSRC = Path(__file__).parents[1] / "csrc"
AUTO_GPTQ, LLAMA = "auto-gptq==0.7.1", "llama-cpp-python==0.3.36"
TORCH = """
#pragma once
#include <cstring>
namespace torch {
struct Tensor {  // what host code asks of it; nothing of this is ever run
    int size(int) const; int type() const; void* data_ptr() const;
    template <class T> T* data() const; template <class T> T* data_ptr() const;
};
}
#define AT_DISPATCH_FLOATING_TYPES(type, name, ...) \\
    { using scalar_t = float; __VA_ARGS__(); }
"""
CUBLAS = """
#pragma once
#include <library_types.h>
typedef void* cublasHandle_t;
typedef int cublasStatus_t;
enum { CUBLAS_STATUS_SUCCESS, CUBLAS_TENSOR_OP_MATH, CUBLAS_TF32_TENSOR_OP_MATH };
const char* cublasGetStatusString(cublasStatus_t);
cublasStatus_t cublasCreate(cublasHandle_t*);
cublasStatus_t cublasDestroy(cublasHandle_t);
cublasStatus_t cublasSetMathMode(cublasHandle_t, int);
cublasStatus_t cublasSetStream(cublasHandle_t, cudaStream_t);
cublasStatus_t cublasSetWorkspace(cublasHandle_t, void*, size_t);
"""
MMVQ = """
const void* const kernels[] = {
    (const void*)mul_mat_vec_q<GGML_TYPE_Q4_0, 1, false>,
    (const void*)mul_mat_vec_q<GGML_TYPE_Q4_0, 8, false>,
    (const void*)mul_mat_vec_q<GGML_TYPE_Q4_K, 1, false>,
    (const void*)mul_mat_vec_q<GGML_TYPE_Q4_K, 8, false>};
"""


@dataclass(frozen=True)
class Row:
    """One kernel of the table: where it is, and what a trip through its loop multiplies."""

    library: str
    what: str
    kernel: str
    """A glob that one kernel of the file matches."""
    bytes_per_weight: float
    weights: Callable[[MainLoop], float] | None
    """None: no lane multiplies a weight of its own in the loop, or the record knows."""
    why: str
    threads: int | None = None
    """Of a block, from the launch in the source; None: its ``__launch_bounds__``."""


def loads(loop: MainLoop) -> int:
    return sum(loop.global_loads.values())


def dots(loop: MainLoop) -> int:
    return loop.classes["dot"]


INT4 = 0.5 + 2 / 128  # fp16 scales
GPTQ = INT4 + 0.5 / 128  # and zeros of 4 bits
OURS = "bytes of its read-once loads, twice as many weights"
FILES: dict[str, tuple[Row, ...]] = {
    "ours/decode_w4a16.cu": (
        Row("ours", "M=1", "decode<HalfPairs<4,false,1*>,128>", INT4, None, OURS),
        Row("ours", "M=8, no tc", "decode<HalfPairs<4,false,8*>,128>", INT4, None, OURS),
        Row("ours", "M=8", "decode<TensorCores<4,false,*1>,128>", INT4, None, OURS),
    ),
    "auto-gptq/cuda_256.cu": (
        Row(
            "auto-gptq cuda",
            "M=1, fp16",
            "VecQuant4MatMulKernelFaster_old",
            GPTQ + 2 / 128,  # scales are float32
            lambda loop: 8 * loads(loop) / 3,
            "a word of 8 weights for each three loads: the word, its scale, its zero",
            256,
        ),
        Row(
            "auto-gptq cuda",
            "M=1, act-order",
            "VecQuant4MatMulKernel<float>",
            GPTQ + 2 / 128,
            lambda loop: (loads(loop) - 1) / 3,
            "a weight for each three loads (group, scale, zero) besides the one word that four"
            " share; dequantising alone, the multiplying loop comes on top",
            256,
        ),
    ),
    "auto-gptq/exllama.so": (
        Row(
            "exllama",
            "M=1, nvcc 12.1",
            "q4_matmul_kernel<true,true,false>",
            GPTQ,
            lambda loop: 8 * loads(loop) / 5,
            "a word of 8 weights for each five loads: the word and four pairs of x",
            32,
        ),
    ),
    "auto-gptq/exllamav2.so": tuple(
        Row(
            "exllamav2",
            f"M={m}, nvcc 12.1",
            f"gemm_half_q_half_gptq_kernel<true,{m}>",
            GPTQ,
            lambda loop: 32 * loop.global_loads["128"],
            "its 128-bit loads are the weights', 32 each; the 32-bit ones are of a new group",
            128,
        )
        for m in (1, 8)
    ),
    "llama.cpp/mmvq.cu": (
        Row(
            "llama.cpp mmvq",
            "M=1, Q4_0",
            "mul_mat_vec_q<(ggml_type)2,1,*",
            18 / 32,
            lambda loop: 4 * dots(loop),
            "four of each dp4a",
        ),
        Row(
            "llama.cpp mmvq",
            "M=8, Q4_0",
            "mul_mat_vec_q<(ggml_type)2,8,*",
            18 / 32,
            lambda loop: 4 * dots(loop) / 8,
            "four of each dp4a, each used for 8 rows of x",
        ),
        Row(
            "llama.cpp mmvq",
            "M=1, Q4_K",
            "mul_mat_vec_q<(ggml_type)12,1,*",
            144 / 256,
            lambda loop: 4 * dots(loop) / 2,
            "four of each second dp4a; the others sum x for the minimum",
        ),
        Row(
            "llama.cpp mmvq",
            "M=8, Q4_K",
            "mul_mat_vec_q<(ggml_type)12,8,*",
            144 / 256,
            lambda loop: 4 * dots(loop) * 2 / 3 / 8,
            "four of two dp4a in three, for 8 rows of x; the third sums x for a block's two rows",
        ),
    ),
    "ours/prefill_w4a16.cu": (
        Row("ours", "large M", "multiply_f16<Codes4,128,8,false>", INT4, None, OURS),
        Row("ours", "large M, g32", "multiply_f16<Codes4,32,8,false>", INT4 + 6 / 128, None, OURS),
    ),
    "llama.cpp/mmq-instance-q4_0.cu": tuple(
        Row(
            "llama.cpp mmq",
            f"{m} tokens, Q4_0",
            f"mul_mat_q<(ggml_type)2,{m},false,*",
            18 / 32,
            None,
            "a tile in shared memory is multiplied by all warps: no lane's own",
        )
        for m in (64, 128)
    ),
    "llama.cpp/mmq-instance-q4_k.cu": (
        Row(
            "llama.cpp mmq",
            "64 tokens, Q4_K",
            "mul_mat_q<(ggml_type)12,64,false,*",
            144 / 256,
            None,
            "a tile in shared memory is multiplied by all warps: no lane's own",
        ),
    ),
}


def download(requirement: str, folder: Path, *options: str) -> Path:
    """The one archive of a package that pip fetches, unpacked."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", str(folder)]
    # A setup.py, which pip runs for the metadata, looks for no torch with this set.
    environ = {**os.environ, "BUILD_CUDA_EXT": "0"}
    subprocess.run([*command, *options, requirement], check=True, env=environ)
    wheel = "--platform" in options
    (archive,) = [
        p
        for p in folder.iterdir()
        if p.name.replace("_", "-").startswith(requirement.partition("==")[0])
        and p.suffix == (".whl" if wheel else ".gz")
    ]
    unpacked = folder / archive.name.partition(".tar")[0].removesuffix(".whl")
    if not unpacked.is_dir():
        if wheel:
            with zipfile.ZipFile(archive) as packed:
                packed.extractall(unpacked)
        else:
            with tarfile.open(archive) as packed:
                packed.extractall(folder, filter="data")
    return unpacked


def prepared(downloads: Path, work: Path) -> dict[str, Callable[[], Path]]:
    """How each file of FILES is made: peers' archives unpacked, sources compiled for sm_75."""
    sdist = download(AUTO_GPTQ, downloads, "--no-binary", ":all:", "--no-build-isolation")
    platform = ("--platform", "manylinux_2_17_x86_64", "--python-version", "3.11")
    wheel = download(AUTO_GPTQ, downloads, "--only-binary", ":all:", *platform)
    llama = download(LLAMA, downloads, "--no-binary", LLAMA.partition("==")[0])
    ggml = llama / "vendor" / "llama.cpp" / "ggml"
    cuda = ggml / "src" / "ggml-cuda"
    stand_ins = work / "stand_ins"
    (stand_ins / "torch").mkdir(parents=True)
    for name, text in [("torch/all.h", TORCH), ("torch/python.h", ""), ("cublas_v2.h", CUBLAS)]:
        (stand_ins / name).write_text(text)
    ggml_folders = (stand_ins, cuda, ggml / "src", ggml / "include")

    def compiled(source: Path, includes: tuple[Path, ...], *options: str) -> Callable[[], Path]:
        def make() -> Path:
            cubin = work / f"{source.stem}.cubin"
            tools.compile_source(source, cubin, "sm_75", includes, options)
            return cubin

        return make

    def mmvq() -> Path:
        text = (cuda / "mmvq.cu").read_text()
        kernels, launchers, _ = text.partition("template<ggml_type type, int c_ncols_dst")
        if not launchers:
            raise InputError("mmvq.cu has no launchers where they were in 0.3.36")
        source = work / "mmvq.cu"
        source.write_text(kernels + MMVQ)
        return compiled(source, ggml_folders, *FAST)()

    instances = cuda / "template-instances"
    cuda_256 = sdist / "autogptq_extension" / "cuda_256" / "autogptq_cuda_kernel_256.cu"
    return {
        "ours/decode_w4a16.cu": compiled(CSRC / "cuda" / "decode_w4a16.cu", (CSRC,)),
        "ours/prefill_w4a16.cu": compiled(CSRC / "cuda" / "prefill_w4a16.cu", (CSRC,)),
        "auto-gptq/cuda_256.cu": compiled(cuda_256, (stand_ins,)),
        "auto-gptq/exllama.so": lambda: next(wheel.glob("exllama_kernels*.so")),
        "auto-gptq/exllamav2.so": lambda: next(wheel.glob("exllamav2_kernels*.so")),
        "llama.cpp/mmvq.cu": mmvq,
        **{
            f"llama.cpp/{name}.cu": compiled(instances / f"{name}.cu", ggml_folders, *FAST)
            for name in ("mmq-instance-q4_0", "mmq-instance-q4_k")
        },
    }


FAST = ("-use_fast_math", "-extended-lambda")  # as ggml's own CMakeLists.txt compiles


def kernel_of(file: Path, row: Row) -> tuple[KernelCode, float | None]:
    """The row's kernel, and its instructions per weight."""
    found = examine(file, Question(kernel=row.kernel, threads=row.threads)).kernels
    looping = [kernel for kernel in found if kernel.main_loop is not None]
    if len(looping) != 1:
        raise InputError(f"{row.kernel} is {', '.join(k.name for k in found)}: not one with a loop")
    (kernel,) = looping
    assert kernel.main_loop is not None
    if row.weights is None:
        return kernel, kernel.instructions_per_weight
    return kernel, kernel.main_loop.instructions / row.weights(kernel.main_loop)


def line(row: Row, kernel: KernelCode, per_weight: float | None) -> str:
    resident, loop = kernel.occupancy, kernel.main_loop
    assert loop is not None
    cells = [
        row.library,
        row.what,
        "–" if per_weight is None else f"{per_weight:.2f}",
        "–" if kernel.instructions_per_tensor is None else f"{kernel.instructions_per_tensor:.2f}",
        f"{row.bytes_per_weight:.3f}",
        str(kernel.registers),
        str(kernel.local_loads + kernel.local_stores),
        "–" if resident is None else f"{resident.fraction:.0%}",
        " ".join(f"{count}×{bits}" for bits, count in loop.global_loads.items()) or "–",
        "–" if kernel.bytes_outstanding is None else f"{kernel.bytes_outstanding / 1024:.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--downloads", type=Path, help="folder that keeps the packages")
    parser.add_argument("--only", default="*", help="glob of files, as 'llama.cpp/*'")
    a = parser.parse_args()
    files = {file: rows for file, rows in FILES.items() if fnmatchcase(file, a.only)}
    failed = []
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        downloads = a.downloads or work / "downloads"
        downloads.mkdir(parents=True, exist_ok=True)
        makers = prepared(downloads, work)
        print(f"sm_75, nvcc {tools.compiler_version()}, occupancy on t4; instructions of a trip\n")
        print(
            "| library | kernel | inst/weight | inst/tensor inst | bytes/weight | registers"
            " | spills | occupancy | global loads (bits) | KiB/SM under way |"
        )
        print("|:--|:--|--:|--:|--:|--:|--:|--:|--:|--:|", flush=True)
        for file, rows in files.items():
            try:
                made = makers[file]()
                for row in rows:
                    print(line(row, *kernel_of(made, row)), flush=True)
            except InputError as error:
                failed.append(f"{file}: {error}")
    print("\nWeights of a lane and trip:\n")
    for why in dict.fromkeys((r.library, r.what, r.why) for rows in files.values() for r in rows):
        print(f"- {why[0]}, {why[1]}: {why[2]}")
    for what in failed:
        print(f"- not compiled: {what}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
