"""Perplexity and divergence against plain transformers and a float64 oracle."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from transformers import Gemma2Config, Gemma2ForCausalLM, LlamaConfig, LlamaForCausalLM

from sllmbench.errors import InputError
from sllmbench.measure.memory import PeakRss
from sllmbench.measure.quality import perplexity
from sllmbench.measure.quality.divergence import TOP_K, ReferenceLogProbs
from sllmbench.measure.quality.perplexity import cut, score_text
from sllmbench.runners.transformers import TransformersRunner

if TYPE_CHECKING:
    from sllmbench.record import Quality

VOCAB = 331
MIB = 1024**2


def evaluate(model: Any, ids: torch.Tensor, **options: Any) -> Quality:
    return perplexity.evaluate(TransformersRunner(model), ids, **options)


def make_llama(seed: int = 0, vocab: int = VOCAB, hidden: int = 32, positions: int = 128) -> Any:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocab,
        hidden_size=hidden,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=positions,
        initializer_range=0.2,
        bos_token_id=0,
        eos_token_id=0,
    )
    return LlamaForCausalLM(config).eval()


def make_gemma() -> Any:
    """A model that caps its logits after the output layer."""
    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=VOCAB,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=128,
        initializer_range=0.2,
        final_logit_softcapping=2.0,
    )
    return Gemma2ForCausalLM(config).eval()


def random_ids(n: int, vocab: int = VOCAB) -> torch.Tensor:
    return torch.randint(1, vocab, (n,), generator=torch.Generator().manual_seed(n))


def windows(ids: torch.Tensor, context: int) -> list[torch.Tensor]:
    cut = [ids[start : start + context] for start in range(0, len(ids), context)]
    return [window for window in cut if len(window) >= 2]


def plain_loss(model: Any, ids: torch.Tensor, context: int) -> float:
    """The mean loss of transformers itself, every token with the same weight."""
    total, count = 0.0, 0
    with torch.inference_mode():
        for window in windows(ids, context):
            loss = model(window[None], labels=window[None]).loss
            total += loss.double().item() * (len(window) - 1)
            count += len(window) - 1
    return total / count


def oracle(model: Any, ids: torch.Tensor, context: int) -> np.ndarray[Any, Any]:
    """Log-probabilities of all scored positions in float64."""
    rows = []
    with torch.inference_mode():
        for window in windows(ids, context):
            logits = model(window[None]).logits[0, :-1].double().numpy()
            shifted = logits - logits.max(-1, keepdims=True)
            rows.append(shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)))
    return np.concatenate(rows)


def save(model: Any, ids: torch.Tensor, file: Path, **options: Any) -> ReferenceLogProbs:
    evaluate(model, ids, text_name="text", save_log_probs=file, **options)
    return ReferenceLogProbs(file)


@pytest.mark.parametrize("make", [make_llama, make_gemma])
@pytest.mark.parametrize(
    ("n", "scored"),
    [(96, 93), (97, 93), (98, 94), (120, 116), (3, 2), (32, 31)],
    # whole windows; one token over, which nothing predicts; two over; a long rest; short texts
)
def test_perplexity_is_that_of_transformers(make: Any, n: int, scored: int) -> None:
    model, ids = make(), random_ids(n)
    quality = evaluate(model, ids, text_name="text", context=32)
    assert quality.n_tokens == scored
    assert quality.perplexity == pytest.approx(math.exp(plain_loss(model, ids, 32)), rel=1e-6)
    assert (quality.context, quality.stride, quality.text) == (32, 32, "text")
    assert "no BOS" in quality.definition
    assert quality.reference_path is quality.kl_divergence is quality.top1_agreement is None


def test_the_standard_error_is_that_of_the_delta_method() -> None:
    model, ids = make_llama(), random_ids(120)
    quality = evaluate(model, ids, text_name="text", context=32)
    log_probs = oracle(model, ids, 32)
    targets = np.concatenate([window[1:].numpy() for window in windows(ids, 32)])
    nll = -log_probs[np.arange(len(targets)), targets]
    expected = math.exp(nll.mean()) * nll.std(ddof=1) / math.sqrt(len(nll))
    assert quality.perplexity_stderr == pytest.approx(expected, rel=1e-5)


def test_a_large_vocabulary_is_read_in_slices_of_little_memory() -> None:
    model = make_llama(vocab=262_144, hidden=8, positions=384)
    ids = random_ids(384, 262_144)
    evaluate(model, ids[:8], text_name="text")
    peak = PeakRss()
    peak.start()
    quality = evaluate(model, ids, text_name="text")
    used_bytes, reason = peak.above_start_bytes()
    assert quality.perplexity == pytest.approx(math.exp(plain_loss(model, ids, 384)), rel=1e-6)
    if used_bytes is None:
        pytest.skip(f"this kernel keeps no peak: {reason}")
    assert used_bytes < 320 * MIB  # all logits at once are 384 MiB, their logarithms as much again


def test_a_model_does_not_diverge_from_itself(tmp_path: Path) -> None:
    model, ids = make_llama(), random_ids(120)
    reference = save(model, ids, tmp_path / "reference", context=32)
    quality = evaluate(model, ids, text_name="text", context=32, reference=reference)
    assert quality.kl_divergence == quality.kl_divergence_stderr == 0
    assert quality.top1_agreement == 1
    assert quality.top1_agreement_stderr == 0
    assert quality.kl_n_tokens == quality.n_tokens == 116
    assert quality.reference_path == "LlamaForCausalLM"


@pytest.mark.parametrize("kl_tokens", [40, 116, 2048])
def test_divergence_is_the_oracles(tmp_path: Path, kl_tokens: int) -> None:
    ids, first, second = random_ids(120), make_llama(0), make_llama(0)
    with torch.no_grad():
        for weight in second.parameters():
            weight += 0.02 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
    reference = save(first, ids, tmp_path / "reference", context=32, kl_tokens=kl_tokens)
    quality = evaluate(second, ids, text_name="text", context=32, reference=reference)
    count = min(kl_tokens, 116)
    p, q = oracle(first, ids, 32)[:count], oracle(second, ids, 32)[:count]
    divergence = (np.exp(p) * (p - q)).sum(-1)
    agrees = p.argmax(-1) == q.argmax(-1)
    assert 0 < agrees.mean() < 1, "a test of agreement needs some of both"
    assert quality.kl_n_tokens == reference.rows == count
    assert quality.kl_divergence == pytest.approx(divergence.mean(), rel=1e-5)
    assert quality.kl_divergence_stderr == pytest.approx(
        divergence.std(ddof=1) / math.sqrt(count), rel=1e-5
    )
    assert quality.top1_agreement == agrees.mean()
    assert quality.top1_agreement_stderr == pytest.approx(
        agrees.std(ddof=1) / math.sqrt(count), rel=1e-9
    )


def test_the_direction_of_the_divergence_is_from_the_reference(tmp_path: Path) -> None:
    ids, first, second = random_ids(60), make_llama(0), make_llama(0)
    with torch.no_grad():
        second.lm_head.weight *= 3  # surer of itself, so that the two directions differ
    p, q = oracle(first, ids, 60), oracle(second, ids, 60)
    forward, backward = ((np.exp(a) * (a - b)).sum(-1).mean() for a, b in ((p, q), (q, p)))
    assert forward != pytest.approx(backward, rel=1e-2)
    reference = save(first, ids, tmp_path / "reference")
    quality = evaluate(second, ids, text_name="text", reference=reference)
    assert quality.kl_divergence == pytest.approx(forward, rel=1e-5)


def test_a_model_on_a_path_gives_the_reference_the_paths_name(tmp_path: Path) -> None:
    class Named:
        name = "int8"

    model = make_llama()
    model.sllmbench_path = Named()
    assert save(model, random_ids(9), tmp_path / "reference").path_name == "int8"


def test_half_precision_is_scored_in_single() -> None:
    model, ids = make_llama().bfloat16(), random_ids(120)
    quality = evaluate(model, ids, text_name="text")
    nll = -oracle(model, ids, 120)[np.arange(119), ids[1:].numpy()]
    assert quality.perplexity == pytest.approx(math.exp(nll.mean()), rel=1e-5)


def test_the_model_is_left_as_it_was() -> None:
    model, ids = make_llama(), random_ids(60)
    before = model(ids[None]).logits
    evaluate(model, ids, text_name="text")
    assert torch.equal(model(ids[None]).logits, before)
    assert "forward" not in vars(model.model)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("where", ["lm_head.weight", "model.norm.weight"])
def test_predictions_that_are_no_numbers_are_refused(where: str, value: float) -> None:
    model = make_llama()
    with torch.no_grad():
        model.get_parameter(where).view(-1)[5] = value
    with pytest.raises(InputError, match="not finite in window 1 of text"):
        evaluate(model, random_ids(60), text_name="text")
    assert "forward" not in vars(model.model)


def test_a_nan_in_the_last_window_alone_is_refused() -> None:
    model, ids = make_llama(), random_ids(60)
    ids[ids == 7] = 8
    ids[50] = 7
    with torch.no_grad():
        model.get_input_embeddings().weight[7] = math.nan
    with pytest.raises(InputError, match="window 2"):
        evaluate(model, ids, text_name="text", context=32)


def test_a_perplexity_beyond_any_number_is_refused() -> None:
    model = make_llama()
    with torch.no_grad():
        model.lm_head.weight *= 1e6
    with pytest.raises(InputError, match="beyond float64"):
        evaluate(model, random_ids(60), text_name="text")


def test_a_model_without_an_output_layer_is_refused() -> None:
    with pytest.raises(InputError, match="LlamaModel has no output layer"):
        evaluate(make_llama().model, random_ids(60), text_name="text")


def rule_out(model: Any, token: int) -> None:
    def forbid(model: Any, args: Any, out: Any) -> Any:
        out.logits[..., token] = -math.inf
        return out

    model.register_forward_hook(forbid)


def test_a_token_that_both_rule_out_adds_nothing(tmp_path: Path) -> None:
    first, ids = make_llama(), random_ids(60)
    rule_out(first, 0)
    reference = save(first, ids, tmp_path / "reference")
    quality = evaluate(first, ids, text_name="text", reference=reference)
    assert quality.kl_divergence == 0


def test_a_token_that_only_this_path_rules_out_is_refused(tmp_path: Path) -> None:
    model, ids = make_llama(), random_ids(60)
    reference = save(model, ids, tmp_path / "reference")
    rule_out(model, 0)
    with pytest.raises(InputError, match="infinite"):
        evaluate(model, ids, text_name="text", reference=reference)


@pytest.mark.parametrize(
    ("ids", "options", "message"),
    [
        (random_ids(2), {}, "n >= 3"),
        (random_ids(60)[None], {}, "n >= 3"),
        (random_ids(60), {"context": 1}, "at least 2"),
        (random_ids(60), {"kl_tokens": 1}, "at least 2"),
        (random_ids(200), {"context": 200}, "128 positions"),
        (torch.tensor([1, 2, VOCAB]), {}, "vocabulary"),
        (torch.tensor([1, -2, 3]), {}, "vocabulary"),
    ],
)
def test_what_cannot_be_scored_is_refused(
    ids: torch.Tensor, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        evaluate(make_llama(), ids, text_name="text", **options)


def test_a_reference_of_something_else_is_refused(tmp_path: Path) -> None:
    model, ids = make_llama(), random_ids(60)
    reference = save(model, ids, tmp_path / "reference", context=32)
    other = ids.clone()
    other[-1] += 1 if other[-1] == 1 else -1
    for subject, text, context, message in (
        (model, ids, 31, "context of 32"),
        (model, other, 32, "SHA-256"),
        (make_llama(vocab=VOCAB + 1), ids, 32, f"vocabulary of {VOCAB}"),
    ):
        with pytest.raises(InputError, match=message):
            evaluate(subject, text, text_name="text", context=context, reference=reference)


def test_a_reference_that_was_not_finished_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "reference"
    save(make_llama(), random_ids(60), file)
    whole = file.read_bytes()
    file.write_bytes(whole[:-4])
    with pytest.raises(InputError, match="did not finish"):
        ReferenceLogProbs(file)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe nothing", b"[1, 2]\n", b'{"format": "x"}\n'])
def test_a_file_of_something_else_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "reference"
    file.write_bytes(content)
    with pytest.raises(InputError, match="no file of reference"):
        ReferenceLogProbs(file)


def test_a_reference_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        ReferenceLogProbs(tmp_path / "reference")


@pytest.mark.parametrize(
    ("file", "message"), [("/dev/full", "No space left"), ("/nowhere/file", "No such file")]
)
def test_a_place_that_takes_no_file_is_refused(file: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        evaluate(make_llama(), random_ids(60), text_name="text", save_log_probs=Path(file))


def test_progress_ends_at_the_whole() -> None:
    told: list[float | None] = []
    evaluate(
        make_llama(),
        random_ids(96),
        text_name="text",
        context=32,
        progress=lambda _, fraction: told.append(fraction),
    )
    assert told == pytest.approx([0, 1 / 3, 2 / 3, 1])


@pytest.mark.parametrize(("n", "context", "stride"), [(97, 32, 8), (96, 32, 31), (33, 32, 1)])
def test_with_a_stride_only_new_tokens_are_scored_with_all_that_went_before(
    n: int, context: int, stride: int
) -> None:
    model, ids = make_llama(), random_ids(n)
    expected = []
    with torch.inference_mode():
        for token in range(1, n):
            # The first window that holds the token, as the windows of a stride are commonly laid.
            begin = next(b for b in range(0, n, stride) if token < b + context)
            logits = model(ids[None, begin:token]).logits[0, -1].double()
            expected.append(float(torch.logsumexp(logits, 0) - logits[ids[token]]))
    scores = score_text(
        TransformersRunner(model), ids, text_name="text", context=context, stride=stride
    )
    assert scores.nll == pytest.approx(expected, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize(("n", "context", "stride"), [(97, 32, 32), (97, 32, 8), (3, 8, 2)])
def test_no_token_is_scored_twice(n: int, context: int, stride: int) -> None:
    scored = [token for w in cut(n, context, stride) for token in range(w.first, w.end)]
    assert scored == sorted(set(scored))
    firsts = {0} if stride < context else set(range(0, n, stride))
    assert set(scored) == set(range(n)) - firsts


@pytest.mark.parametrize(("context", "stride"), [(32, 0), (32, 33), (1, 1)])
def test_a_cut_that_leaves_tokens_out_is_refused(context: int, stride: int) -> None:
    with pytest.raises(InputError, match=r"stride|at least 2"):
        cut(100, context, stride)


def test_the_agreement_on_the_likeliest_tokens_is_the_oracles(tmp_path: Path) -> None:
    ids, first, second = random_ids(60), make_llama(0), make_llama(1)
    reference = save(first, ids, tmp_path / "reference")
    scores = score_text(TransformersRunner(second), ids, text_name="text", reference=reference)
    p, q = (np.argsort(oracle(model, ids, 60), axis=-1)[:, -TOP_K:] for model in (first, second))
    shared = [len(set(a) & set(b)) / TOP_K for a, b in zip(p.tolist(), q.tolist(), strict=True)]
    assert 0 < np.mean(shared) < 1, "a test of agreement needs some of both"
    assert scores.divergence is not None
    assert scores.divergence.top_k == pytest.approx(shared)


def test_a_reference_with_another_stride_is_refused(tmp_path: Path) -> None:
    model, ids = TransformersRunner(make_llama()), random_ids(60)
    file = tmp_path / "reference"
    score_text(model, ids, text_name="text", context=32, stride=8, save_log_probs=file)
    with pytest.raises(InputError, match="stride of 8"):
        score_text(
            model, ids, text_name="text", context=32, stride=16, reference=ReferenceLogProbs(file)
        )
