"""Our GPTQ beside auto-gptq's, a layer at a time.

    python benchmarks/gptq_vs_auto_gptq.py --in PYTHON    # an interpreter that has auto-gptq

Both get the same weight and the same Hessian of correlated inputs and take turns, each in its own
process that is stopped meanwhile. Times are medians of the solving alone, Hessian not included;
errors are sqrt(tr(E H Eᵀ) / tr(W H Wᵀ)).
"""

from __future__ import annotations

import argparse
import signal
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

SHAPES = "2048x2048,8192x2048,2048x8192"
TOKENS = 4096

OURS = """
import sys, time, numpy as np, torch
from sllmbench import _native
from sllmbench.quantizers.gptq import GptqSettings, gptq
folder, bits, group_size, desc_act, threads = sys.argv[1], *map(int, sys.argv[2:])
_native.set_threads(threads); torch.set_num_threads(threads)
weight, hessian = np.load(folder + "/weight.npy"), np.load(folder + "/hessian.npy")
settings = GptqSettings(bits, group_size, desc_act=bool(desc_act))
for line in sys.stdin:
    start = time.perf_counter()
    result = gptq(weight, hessian, settings)
    seconds = time.perf_counter() - start
    np.save(folder + "/ours.npy", result.tensor.dequantize())
    print(seconds, flush=True)
"""
PEER = """
import sys, time, logging, numpy as np, torch
logging.disable(logging.CRITICAL)
torch.cuda.synchronize = lambda *_: None  # which it calls on a CPU, too
from auto_gptq.quantization import GPTQ
folder, bits, group_size, desc_act, threads = sys.argv[1], *map(int, sys.argv[2:])
torch.set_num_threads(threads)
weight = torch.from_numpy(np.load(folder + "/weight.npy"))
hessian = torch.from_numpy(np.load(folder + "/hessian.npy"))
for line in sys.stdin:
    layer = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight.data = weight.clone()
    solver = GPTQ(layer)
    solver.quantizer.configure(bits, perchannel=True, sym=True, mse=False)
    solver.H = hessian.clone(); solver.nsamples = 1
    start = time.perf_counter()
    solver.fasterquant(percdamp=0.01, group_size=group_size, actorder=bool(desc_act))
    seconds = time.perf_counter() - start
    np.save(folder + "/peer.npy", layer.weight.data.numpy())
    print(seconds, flush=True)
"""


class Side:
    """One solver in its own process, stopped between its turns."""

    def __init__(self, python: str, program: str, arguments: list[str]) -> None:
        self._process = subprocess.Popen(
            [python, "-c", program, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.seconds: list[float] = []
        self.turn()  # imports, and a first go that does not count
        self.seconds.clear()

    def turn(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.send_signal(signal.SIGCONT)
        print(file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        self._process.send_signal(signal.SIGSTOP)
        if not answer:
            raise SystemExit("a solver ended: is auto-gptq installed in that interpreter?")
        self.seconds.append(float(answer))

    def end(self) -> None:
        self._process.kill()
        self._process.wait()


def make_case(folder: Path, n: int, k: int) -> None:
    """Write a weight and the Hessian of correlated inputs."""
    rng = np.random.default_rng(0)
    mix = np.eye(k, dtype=np.float32) + rng.normal(size=(k, k)).astype(np.float32) / np.float32(
        k**0.5
    )
    x = rng.normal(size=(TOKENS, k)).astype(np.float32) @ mix
    np.save(folder / "hessian.npy", x.T @ x / np.float32(TOKENS))
    np.save(folder / "weight.npy", rng.normal(size=(n, k)).astype(np.float32) / 50)


def error(folder: Path, values: str) -> float:
    from sllmbench.quantizers.error import relative_error

    weight, hessian = np.load(folder / "weight.npy"), np.load(folder / "hessian.npy")
    return relative_error(weight, np.load(folder / values), hessian)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--in", dest="python", required=True, help="Python that has auto-gptq")
    parser.add_argument("--shapes", default=SHAPES, help="rows x columns, commas between them")
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--group-size", type=int, default=128)
    parser.add_argument("--desc-act", action="store_true")
    parser.add_argument("-t", "--threads", type=int, default=2)
    parser.add_argument("-r", "--rounds", type=int, default=3)
    a = parser.parse_args()
    options = [str(int(o)) for o in (a.bits, a.group_size, a.desc_act, a.threads)]
    print("| shape | ours s | auto-gptq s | × | our error | its error |\n|:--|--:|--:|--:|--:|--:|")
    for shape in a.shapes.split(","):
        n, k = map(int, shape.split("x"))
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            make_case(folder, n, k)
            ours = Side(sys.executable, OURS, [name, *options])
            peer = Side(a.python, PEER, [name, *options])
            try:
                for turn in range(a.rounds):
                    for side in (ours, peer) if turn % 2 else (peer, ours):
                        side.turn()
            finally:
                ours.end()
                peer.end()
            times = [statistics.median(side.seconds) for side in (ours, peer)]
            print(
                f"| {shape} | {times[0]:.2f} | {times[1]:.2f} | {times[1] / times[0]:.2f} | "
                f"{error(folder, 'ours.npy'):.4f} | {error(folder, 'peer.npy'):.4f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
