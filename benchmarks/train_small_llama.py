"""Train a small llama on packaged text, so that there is a model with true float weights.

    python benchmarks/train_small_llama.py OUT            # 26 minutes on one busy core (Zen 3)

The default model's weights come off a 4-bit grid, so quantising it costs something else than
quantising a trained model. This one has 5.8 million float32 weights; it learns a byte-level BPE of
4,096 tokens, then nine tenths of the packaged OpenWebText and Wikipedia passages. OUT becomes a
Hugging Face folder that every command takes, and OUT/held_out.txt holds the other tenth, which
neither it saw nor a calibration does:

    sllmbench run OUT --text OUT/held_out.txt
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from sllmbench import assets

if TYPE_CHECKING:
    from collections.abc import Iterator

TEXTS = ("openwebtext", "wikipedia")
VOCABULARY, CONTEXT = 4096, 256
BATCH = 4
PEAK_LEARNING_RATE, WARM_UP = 1.5e-3, 0.05
"""With AdamW, weight decay 0.1, gradients clipped at 1, and a cosine to a tenth of the peak."""


def split_texts() -> tuple[str, str]:
    """What is trained on, and what is held out: of each text the tenth that ends in its middle.

    Calibrations draw from the second half.
    """
    seen, unseen = list[str](), list[str]()
    for text in map(assets.text, TEXTS):
        end = 0
        for passage in text.split("\n\n"):
            begin, end = end, end + len(passage) + 2
            inside = 0.4 * len(text) <= begin and end <= len(text) // 2
            (unseen if inside else seen).append(passage)
    return "\n\n".join(seen), "\n\n".join(unseen)


def train_tokenizer(text: str) -> Any:
    """A byte-level BPE learnt from ``text``: no byte is unknown to it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(text.split("\n\n"), trainer)
    end = "<|endoftext|>"
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=end, eos_token=end)


def make_model() -> Any:
    """Untrained weights; every width is a multiple of 256, as K-quants want it."""
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=256,
            intermediate_size=768,
            num_hidden_layers=6,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
            bos_token_id=0,
            eos_token_id=0,
        )
    )


def batches(ids: torch.Tensor, epochs: int) -> Iterator[torch.Tensor]:
    """Windows of the text, [BATCH, CONTEXT]: in every epoch cut elsewhere, in another order."""
    for _ in range(epochs):
        offset = int(torch.randint(CONTEXT, ()))
        windows = (len(ids) - offset) // CONTEXT
        cut = ids[offset : offset + windows * CONTEXT].view(windows, CONTEXT)
        yield from cut[torch.randperm(windows)].split(BATCH)


def train(model: Any, ids: torch.Tensor, epochs: int) -> None:
    """Train in place, saying every fiftieth loss."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.0, betas=(0.9, 0.95), weight_decay=0.1)
    steps = sum(1 for _ in batches(ids, epochs))
    start = time.perf_counter()
    for step, batch in enumerate(batches(ids, epochs)):
        done = step / steps
        decay = 0.55 + 0.45 * math.cos(math.pi * done)
        optimizer.param_groups[0]["lr"] = PEAK_LEARNING_RATE * min(done / WARM_UP, decay)
        loss = model(input_ids=batch, labels=batch).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 50 == 0:
            seconds = time.perf_counter() - start
            print(f"{done:4.0%}  {seconds:5.0f} s  loss {loss.item():.3f}", flush=True)


@torch.inference_mode()
def perplexity(model: Any, ids: torch.Tensor) -> float:
    """Over non-overlapping windows of CONTEXT tokens."""
    windows = ids[: len(ids) // CONTEXT * CONTEXT].view(-1, CONTEXT)
    losses = [float(model(input_ids=part, labels=part).loss) for part in windows.split(1)]
    return math.exp(sum(losses) / len(losses))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("out", type=Path, help="the folder to make")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    seen, unseen = split_texts()
    tokenizer = train_tokenizer(seen)
    model = make_model()
    ids = torch.tensor(tokenizer(seen)["input_ids"])
    held_out = torch.tensor(tokenizer(unseen)["input_ids"])
    count = sum(parameter.numel() for parameter in model.parameters())
    print(f"{count / 1e6:.1f} M weights; {len(ids):,} tokens to learn, {len(held_out):,} held out")
    train(model, ids, arguments.epochs)
    model.eval()
    print(f"perplexity on what it never saw: {perplexity(model, held_out):.1f}")
    model.save_pretrained(arguments.out)
    tokenizer.save_pretrained(arguments.out)
    (arguments.out / "held_out.txt").write_text(unseen, encoding="utf-8")


if __name__ == "__main__":
    main()
