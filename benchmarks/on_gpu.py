"""Run every GPU test and benchmark of this repository, and pack what they say into one file.

    python benchmarks/on_gpu.py
    python benchmarks/on_gpu.py --quick    # the tests, one shape, a small model

Nothing is sent anywhere: the last line names the file. A step that fails is kept with its output
and does not stop the others; the exit code is then 1.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from sllmbench.hardware import cuda

ROOT = Path(__file__).resolve().parent.parent
_STEP_TIMEOUT_S = 3600


@dataclass(frozen=True)
class Step:
    """A command, and the name of the files that its output goes to."""

    name: str
    command: tuple[str, ...]


@dataclass(frozen=True)
class Ended:
    """How a step ended; a code of None is a timeout."""

    step: Step
    code: int | None
    seconds: float


def steps(folder: Path, quick: bool) -> list[Step]:
    """Everything that is run, in order: what the machine is, the tests, then the measurements."""
    ours = (sys.executable, "-m", "sllmbench")
    store = ("--store", str(folder / "records.db"))
    shapes = "2048x2048" if quick else "512x2048,2048x2048,8192x2048,2048x8192"
    rows = "1,8,16" if quick else "1,2,4,8,16,32,64,128,256,512,1024"
    model = "random:qwen2.5-0.5b" if quick else "random:llama-3.2-1b"
    paths = "fp16,int8,int4-g128,unfused-int4-g128"
    kernel = (*ours, "kernel", "--device", "cuda", "--shape", shapes, "-m", rows, *store)
    found = [
        Step("nvidia-smi", ("nvidia-smi", "-q")),
        Step("nvcc", ("nvcc", "--version")),
        Step("pip", (sys.executable, "-m", "pip", "freeze")),
        Step("machine", (*ours, "machine", "-o", "json")),
        Step("doctor", (*ours, "doctor", "-o", "json")),
        Step("tests", (sys.executable, "-m", "pytest", "-q", "-rs", "-m", "gpu",
                       f"--junitxml={folder / 'tests.xml'}", str(ROOT / "tests" / "gpu"))),
        Step("kernel-hot", (*kernel, "-o", "jsonl")),
        Step("kernel-cold", (*kernel, "--cache", "cold", "-o", "jsonl")),
        Step("kernel-int8", (*kernel, "--cache", "cold", "--arithmetic", "int8",
                             "--paths", "int8,torch:fp16", "-o", "jsonl")),
        Step("run", (*ours, "run", model, "--device", "cuda", "--no-quality",
                     "--paths", paths, "-o", "jsonl", *store)),
    ]  # fmt: skip
    if not quick:
        quality = (*ours, "run", "smollm2-135m", "--device", "cuda", "-o", "jsonl", *store)
        found.append(Step("run-quality", quality))
    return found


def carry_out(step: Step, folder: Path) -> Ended:
    """Run a step; its stdout and stderr go to files named after it."""
    print(f"{step.name}: {' '.join(step.command)}", flush=True)
    start = time.perf_counter()
    code: int | None = None
    with (
        (folder / f"{step.name}.out").open("wb") as out,
        (folder / f"{step.name}.err").open("wb") as err,
    ):
        try:
            code = subprocess.run(
                step.command, stdout=out, stderr=err, timeout=_STEP_TIMEOUT_S, check=False
            ).returncode
        except subprocess.TimeoutExpired:
            err.write(f"\nended after {_STEP_TIMEOUT_S} s\n".encode())
        except OSError as error:
            code = 127
            err.write(f"{error}\n".encode())
    ended = Ended(step, code, time.perf_counter() - start)
    print(f"  {'ok' if code == 0 else f'FAILED ({code})'} in {ended.seconds:.0f} s", flush=True)
    return ended


def pack(folder: Path, ended: list[Ended], to: Path) -> None:
    """Write the list of steps beside their outputs, and all of it into one archive."""
    summary = [asdict(one) for one in ended]
    (folder / "steps.json").write_text(json.dumps(summary, indent=1), "utf-8")
    with tarfile.open(to, "w:gz") as archive:
        archive.add(folder, arcname=to.name.removesuffix(".tar.gz"))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one shape, few rows, a small model")
    parser.add_argument("--to", type=Path, help="the archive; by default named after GPU and time")
    options = parser.parse_args()
    reason = cuda.unavailable()
    if reason is not None:
        print(f"error: nothing to measure on: {reason}", file=sys.stderr)
        return 2
    name = cuda.facts(0).name.replace(" ", "-")
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    to = options.to or Path(f"sllmbench-{name}-{stamp}.tar.gz")
    folder = Path(tempfile.mkdtemp(prefix="on_gpu_"))
    try:
        os.environ["PYTHONUNBUFFERED"] = "1"
        print(f"{name}, Python {platform.python_version()}", flush=True)
        ended = [carry_out(step, folder) for step in steps(folder, options.quick)]
        pack(folder, ended, to)
    finally:
        shutil.rmtree(folder)
    needed = [one for one in ended if one.step.name not in ("nvidia-smi", "nvcc")]
    print(f"send back: {to.resolve()}")
    return 0 if all(one.code == 0 for one in needed) else 1


if __name__ == "__main__":
    sys.exit(main())
