"""The perplexity of our GGUF files by our kernels, and by llama.cpp's own llama-perplexity.

    python benchmarks/gguf_vs_llama_perplexity.py MODEL FOLDER --tool PATH/llama-perplexity

Writes MODEL to FOLDER in each type, once, and lets both read the same packaged text. The tool cuts
it into windows that do not overlap and scores the second half of each but for its first token; so
is scored here. Our figure is from the path ``gguf``: the file's own blocks, activations rounded to
int8 as in ggml.
"""

from __future__ import annotations

import argparse
import math
import re
import subprocess
from pathlib import Path

import torch

from sllmbench import assets, runners
from sllmbench.checkpoints import open_checkpoint
from sllmbench.checkpoints.base import silent
from sllmbench.convert import quantize_model
from sllmbench.measure.quality.scoring import predictions

FINAL = re.compile(r"Final estimate: PPL = ([0-9.]+) \+/- ([0-9.]+)")


def ours(file: Path, text: str, context: int, chunks: int) -> float:
    checkpoint = open_checkpoint(str(file))
    ids = torch.tensor(checkpoint.tokenizer()(text, add_special_tokens=False)["input_ids"])
    runner = runners.resolve("gguf").load(checkpoint, 2, silent)
    total, scored = 0.0, 0
    for window in ids[: chunks * context].view(chunks, context):
        for log_probs, targets in predictions(runner, window, context // 2 + 1):
            total -= float(log_probs.gather(1, targets[:, None]).double().sum())
            scored += len(targets)
    return math.exp(total / scored)


def theirs(tool: Path, file: Path, text: Path, context: int, chunks: int) -> tuple[float, float]:
    """The figure and its standard error."""
    command = [tool, "-m", file, "-f", text, "-c", context, "-b", context, "--chunks", chunks]
    ran = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True)
    found = FINAL.search(ran.stdout + ran.stderr)
    if found is None:
        raise SystemExit(f"{tool} printed no final estimate:\n{ran.stderr[-2000:]}")
    return float(found[1]), float(found[2])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("model")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tool", type=Path, required=True)
    parser.add_argument("--types", nargs="+", default=["Q4_0", "Q8_0", "Q4_K_M", "Q5_K_M"])
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--chunks", type=int, default=8)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    text = assets.text("wikipedia")
    text_file = arguments.folder / "wikipedia.txt"
    text_file.write_text(text, encoding="utf-8")
    cut = arguments.context, arguments.chunks
    print("| type | ours | llama-perplexity | ours ÷ its |\n|:--|--:|--:|--:|")
    for kind in arguments.types:
        file = arguments.folder / f"{kind}.gguf"
        if not file.exists():
            quantize_model(arguments.model, file, to=kind)
        own = ours(file, text, *cut)
        its, error = theirs(arguments.tool, file, text_file, *cut)
        print(f"| {kind} | {own:.3f} | {its:.3f} ±{error:.3f} | {own / its:.4f} |", flush=True)


if __name__ == "__main__":
    main()
