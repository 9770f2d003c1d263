"""``python -m sllmbench.checkpoints.gguf_convert FILE FOLDER``: a GGUF as an fp32 folder.

transformers' own GGUF loader does the work, in a process of its own: its memory goes back to the
system, and what a damaged file does to it ends there. The last line on stderr says what went wrong.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from sllmbench.checkpoints.gguf_header import GgufHeader, read_header
from sllmbench.checkpoints.gguf_splits import apply_split
from sllmbench.checkpoints.hf import one_line

TOKENIZER_REASON = "tokenizer_unavailable.json"
"""Written where no tokenizer could be converted: the reason, as a JSON string."""
# The frequency factors of Llama 3.1 and later; the loader does not know them.
IGNORED_TENSORS = {"rope_freqs.weight"}


def convert(file: Path, folder: Path) -> None:
    """Write ``config.json``, the tokenizer and ``model.safetensors`` (float32) into ``folder``.

    Raises:
        ValueError: the loader did not use every tensor, or left one of the model's unset.
        Exception: whatever else transformers raises at a file that it cannot read.
    """
    import torch
    from safetensors.torch import save_file
    from transformers import AutoConfig, AutoModelForCausalLM

    header = read_header(file)
    config = AutoConfig.from_pretrained(file.parent, gguf_file=file.name)
    # transformers 4.46 does not look, and would make up an output layer that the file lacks.
    config.tie_word_embeddings = "output.weight" not in header.tensors
    if config.model_type == "llama":  # the metadata does not say, the tensors do
        config.attention_bias = "blk.0.attn_q.bias" in header.tensors
        config.mlp_bias = "blk.0.ffn_up.bias" in header.tensors
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        file.parent,
        gguf_file=file.name,
        config=config,
        torch_dtype=torch.float32,
        output_loading_info=True,
    )
    model, report = loaded
    _check_complete(report, config.tie_word_embeddings)
    # Not save_pretrained: in transformers 5 it tries to save as GGUF what was loaded from one.
    state = {name: value.contiguous() for name, value in model.state_dict().items()}
    if config.tie_word_embeddings:
        del state["lm_head.weight"]
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    config = model.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    config.save_pretrained(folder)
    _convert_tokenizer(header, folder)
    for written in filter(Path.is_file, folder.rglob("*")):
        with written.open("rb") as stream:
            os.fsync(stream.fileno())


def _check_complete(report: dict[str, Any], tied: bool) -> None:
    missing = set(report["missing_keys"]) - ({"lm_head.weight"} if tied else set())
    mismatched = {entry[0] for entry in report["mismatched_keys"]}
    unexpected = set(report["unexpected_keys"]) - IGNORED_TENSORS
    for what, names in (("lacks", missing | mismatched), ("does not know", unexpected)):
        if names:
            raise ValueError(f"the converted model {what} {', '.join(sorted(names)[:3])}")


def _convert_tokenizer(header: GgufHeader, folder: Path) -> None:
    from transformers import AutoTokenizer

    try:
        if "tokenizer.ggml.model" not in header.metadata:
            raise ValueError("the file holds none")
        tokenizer = AutoTokenizer.from_pretrained(header.file.parent, gguf_file=header.file.name)
        split = header.metadata.get("tokenizer.ggml.pre", "default")
        # Files from before splits had names are read as GPT-2's, as they were then.
        if header.metadata["tokenizer.ggml.model"] == "gpt2" and split != "default":
            apply_split(tokenizer.backend_tokenizer, str(split))
        tokenizer.save_pretrained(folder)
    except Exception as error:  # speed can be measured without one; the reason is kept and shown
        (folder / TOKENIZER_REASON).write_text(json.dumps(one_line(error)))


if __name__ == "__main__":
    try:
        convert(Path(sys.argv[1]), Path(sys.argv[2]))
    except Exception as error:  # reported as one line to the process that waits
        print(f"{type(error).__name__}: {one_line(error)}", file=sys.stderr)
        sys.exit(1)
