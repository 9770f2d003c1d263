"""lm-evaluation-harness on tasks from local files, and our multiple choice against its."""

from __future__ import annotations

import json
import math
import random
from typing import TYPE_CHECKING, Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from sllmbench.assets.questions import Question
from sllmbench.errors import InputError
from sllmbench.measure.quality import choice
from sllmbench.measure.quality.scoring import Item, score_answers
from sllmbench.runners.transformers import TransformersRunner

pytest.importorskip("lm_eval")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

from sllmbench.measure.quality import harness  # noqa: E402

if TYPE_CHECKING:
    from pathlib import Path

WORDS = [
    "river",
    "falcon",
    "copper",
    "garden",
    "winter",
    "amber",
    "mill",
    "roof",
    "summer",
    "others",
    "year",
    "white",
]


def make_questions() -> list[Question]:
    chance = random.Random(2)
    made = []
    for _ in range(30):
        asked = " ".join(chance.choices(WORDS, k=chance.randrange(3, 9)))
        answers = [" ".join(chance.choices(WORDS, k=n)) for n in (1, 2, 4)]
        chance.shuffle(answers)
        made.append(Question(f"Q: {asked}?\nA:", tuple(answers), chance.randrange(3)))
    return made


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=400,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.3,
    )
    return LlamaForCausalLM(config).eval()


def write_task(folder: Path, name: str, rows: list[dict[str, Any]], **config: Any) -> Path:
    import yaml

    data = folder / f"{name}.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}, "cache_dir": str(folder / "cache")},
        "test_split": "test",
        **config,
    }
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(task))
    return file


@pytest.fixture
def choice_task(tmp_path: Path) -> Path:
    rows = [{"asked": q.prompt, "answers": q.answers, "right": q.right} for q in make_questions()]
    return write_task(
        tmp_path,
        "local_choice",
        rows,
        output_type="multiple_choice",
        doc_to_text="{{asked}}",
        doc_to_choice="{{answers}}",
        doc_to_target="right",
        metric_list=[{"metric": "acc"}, {"metric": "acc_norm"}],
    )


def test_multiple_choice_is_the_harnesss(choice_task: Path, model: Any, tokenizer: Any) -> None:
    questions = make_questions()
    items = choice.items(tokenizer, questions)
    scores = score_answers(TransformersRunner(model), items, what="test")
    ours = choice.metrics([[s.log_likelihood for s in row] for row in scores], None, questions)
    found = harness.evaluate(TransformersRunner(model), tokenizer, str(choice_task))
    theirs = found["results"]["local_choice"]
    values = set()
    for metric in ours:
        assert theirs[f"{metric.name},none"] == pytest.approx(metric.value)
        assert theirs[f"{metric.name}_stderr,none"] == pytest.approx(metric.stderr)
        values.add(metric.value)
    assert len(values) == 2, "a test of both rules needs them to differ"
    assert found["n"] == {"local_choice": 30}
    assert found["higher"]["local_choice"]["acc"] is True
    kept = found["samples"]["local_choice"]["acc,none"]
    hits = choice.right([[s.log_likelihood for s in row] for row in scores], questions)
    assert kept == hits["acc"].astype(float).tolist()


def test_pairs_are_cut_where_the_harness_cuts_them(model: Any, tokenizer: Any) -> None:
    theirs = harness._language_model(TransformersRunner(model), tokenizer, lambda *_: None)
    for prompt, continuation in (
        ("Q: river?\nA:", " falcon"),
        ("the old ", "mill"),
        ("roof\n", "amber mill"),
        ("a", "b"),
    ):
        expected = tuple(map(tuple, theirs._encode_pair(prompt, continuation)))
        assert choice.encode_pair(tokenizer, prompt, continuation) == expected
    with pytest.raises(InputError, match="is empty"):
        choice.encode_pair(tokenizer, "river", "")


def test_a_limit_takes_the_first_documents(choice_task: Path, model: Any, tokenizer: Any) -> None:
    scorer = TransformersRunner(model)
    some = harness.evaluate(scorer, tokenizer, str(choice_task), limit=7)
    every = harness.evaluate(scorer, tokenizer, str(choice_task))
    few, all_of_them = (f["samples"]["local_choice"]["acc,none"] for f in (some, every))
    assert few == all_of_them[:7]


def test_word_perplexity_is_of_all_tokens_in_windows(
    tmp_path: Path, model: Any, tokenizer: Any
) -> None:
    chance = random.Random(8)
    text = " ".join(chance.choices(WORDS, k=90))
    file = write_task(
        tmp_path,
        "local_text",
        [{"page": text}],
        output_type="loglikelihood_rolling",
        doc_to_text="",
        doc_to_target="{{page}}",
        metric_list=[{"metric": "word_perplexity"}, {"metric": "bits_per_byte"}],
    )
    found = harness.evaluate(TransformersRunner(model), tokenizer, str(file))
    ids = tokenizer(text)["input_ids"]
    assert len(ids) > 64, "a test of windows needs more tokens than positions"
    # The first window predicts every token, behind the token that ends texts; the last one reads
    # as much as the model takes.
    positions = 63
    total = 0.0
    with torch.inference_mode():
        first = [tokenizer.eos_token_id, *ids[:positions]]
        for done in range(0, len(ids), positions):
            stop = min(done + positions, len(ids))
            window = first if done == 0 else ids[stop - positions - 1 : stop]
            log_probs = torch.log_softmax(model(torch.tensor([window])).logits[0].double(), -1)
            targets = torch.tensor(ids[done:stop])
            scored = log_probs[:-1][-len(targets) :]
            total += float(scored.gather(1, targets[:, None]).sum())
    results = found["results"]["local_text"]
    assert results["word_perplexity,none"] == pytest.approx(math.exp(-total / 90), rel=1e-4)
    bits = -total / math.log(2) / len(text.encode())
    assert results["bits_per_byte,none"] == pytest.approx(bits, rel=1e-5)


def test_greedy_answers_end_at_the_stop(tmp_path: Path, model: Any, tokenizer: Any) -> None:
    scorer = TransformersRunner(model)
    ids = tokenizer("river falcon")["input_ids"]
    whole = tokenizer.decode(scorer.generate(ids, 6, lambda _: False))
    stop = whole[3]
    wanted = whole[: whole.index(stop)]
    file = write_task(
        tmp_path,
        "local_words",
        [{"asked": "river falcon", "wanted": wanted}, {"asked": "roof", "wanted": "no such"}],
        output_type="generate_until",
        doc_to_text="{{asked}}",
        doc_to_target="{{wanted}}",
        generation_kwargs={"until": [stop], "max_gen_toks": 6, "do_sample": False},
        metric_list=[{"metric": "exact_match"}],
    )
    found = harness.evaluate(scorer, tokenizer, str(file))
    assert found["samples"]["local_words"]["exact_match,none"] == [1.0, 0.0]


def test_sampled_answers_are_refused(tmp_path: Path, model: Any, tokenizer: Any) -> None:
    file = write_task(
        tmp_path,
        "local_sampled",
        [{"asked": "river", "wanted": "x"}],
        output_type="generate_until",
        doc_to_text="{{asked}}",
        doc_to_target="{{wanted}}",
        generation_kwargs={"until": ["\n"], "do_sample": True, "temperature": 0.7},
        metric_list=[{"metric": "exact_match"}],
    )
    with pytest.raises(InputError, match="only greedy decoding"):
        harness.evaluate(TransformersRunner(model), tokenizer, str(file))


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "no task file"), ("task: [", "cannot load"), ("output_type: x\n", "cannot load")],
)
def test_a_file_that_is_no_task_is_refused(
    tmp_path: Path, content: str | None, message: str
) -> None:
    file = tmp_path / "task.yaml"
    if content is not None:
        file.write_text(content)
    with pytest.raises(InputError, match=message):
        harness.check(str(file))


def test_a_task_whose_file_of_data_is_gone_is_refused(choice_task: Path) -> None:
    choice_task.with_name("local_choice.jsonl").unlink()
    with pytest.raises(InputError, match="cannot load"):
        harness.check(str(choice_task))


def test_neighbours_with_one_context_share_a_prompt(model: Any) -> None:
    scorer = TransformersRunner(model)
    requests: Any = [(None, [1, 2], [3]), (None, [1, 2], [4, 5]), (None, [9] * 90, [6])]
    grouped = harness._grouped(requests, scorer)
    assert [len(item.answers) for item in grouped] == [2, 1]
    assert isinstance(grouped[0], Item)
    assert grouped[1].n_tokens == 64  # the start of a long context is left out
