"""What each quantiser costs in perplexity, on one grid: RTN, RTN with clipping, GPTQ, AWQ.

    python benchmarks/quantizers_quality.py smollm2-135m FOLDER
    python benchmarks/quantizers_quality.py SMALL FOLDER --text SMALL/held_out.txt --context 256

All round the same linears to groups of the same size with zero points, from the same calibration
text, and are written as dequantised floats, so that the same float32 kernels score all of them. A
ratio is exp of the mean difference of the tokens' NLL from the first method's, paired token by
token, with its 95% interval (tokens taken as independent). FOLDER keeps what was quantised; the
same command goes on there.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import numpy as np

from sllmbench.convert import quantize_model
from sllmbench.evaluation import evaluate

METHODS = {
    "rtn": {"method": "rtn"},
    "rtn --mse-clip": {"method": "rtn", "mse_clip": True},
    "gptq": {"method": "gptq"},
    "gptq --desc-act": {"method": "gptq", "desc_act": True},
    "awq": {"method": "awq"},
}
Z_95 = 1.96


def token_nll(model: str, arguments: argparse.Namespace) -> np.ndarray:
    """Each scored token's, float64 [n]."""
    result = evaluate(
        model,
        [f"perplexity:{arguments.text}"],
        ["fp32"],
        eval_tokens=arguments.eval_tokens,
        context=arguments.context,
        store=arguments.folder / "records.sqlite",
    )
    if result.failures or not result.records:
        raise SystemExit(f"{model}: {result.failures}")
    return np.array(result.records[0].samples["nll"])


def quantized(name: str, bits: int, arguments: argparse.Namespace) -> str:
    """The folder of the model rounded by this method, made where it is not there yet."""
    out = arguments.folder / f"{name.replace(' --', '-')}-{bits}"
    if not out.exists():
        sees_data = METHODS[name]["method"] != "rtn"
        quantize_model(
            arguments.model,
            out,
            to="hf",
            bits=bits,
            group_size=arguments.group_size,
            sym=False,
            calibration=arguments.calibration if sees_data else None,
            samples=arguments.samples,
            sequence_length=arguments.sequence_length,
            **METHODS[name],
        )
    return str(out)


def ratio(nll: np.ndarray, base: np.ndarray) -> str:
    difference = nll - base
    half = Z_95 * difference.std(ddof=1) / math.sqrt(len(difference))
    mean = difference.mean()
    low, high = math.exp(mean - half), math.exp(mean + half)
    return f"{math.exp(mean):.3f} ({low:.3f}–{high:.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("model")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--bits", type=int, nargs="+", default=[4, 3])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--group-size", type=int, default=64)
    parser.add_argument("--calibration", default="owt")
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--sequence-length", type=int, default=512)
    parser.add_argument("--text", default="wikipedia", help="another than was calibrated on")
    parser.add_argument("--eval-tokens", type=int, default=8192)
    parser.add_argument("--context", type=int)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)

    whole = token_nll(arguments.model, arguments)
    print(f"{len(whole)} tokens of {arguments.text}; float32: {math.exp(whole.mean()):.2f}\n")
    print(f"| bits | method | perplexity | × float32 | × `{arguments.methods[0]}` (95%) |")
    print("|--:|:--|--:|--:|--:|")
    for bits in arguments.bits:
        base = None
        for name in arguments.methods:
            nll = token_nll(quantized(name, bits, arguments), arguments)
            base = nll if base is None else base
            grown = math.exp((nll - whole).mean())
            print(
                f"| {bits} | `{name}` | {math.exp(nll.mean()):.2f} | {grown:.3f} "
                f"| {ratio(nll, base)} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
