"""Evaluations with real processes on a tiny model, and what is refused before one starts."""

from __future__ import annotations

import json
import math
import random
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from sllmbench import cli, report
from sllmbench.errors import InputError
from sllmbench.evaluation import EvaluationResult, evaluate
from sllmbench.evaluation.tasks import EncodedText, TextTask
from sllmbench.measure.quality.intervals import wilson
from sllmbench.record import Metric, QualityRecord
from sllmbench.report import quality as quality_report
from sllmbench.store import Store

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("lm_eval")

N_TOKENS = 700


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text in the tiny model's words, and a task of the harness with 40 questions."""
    made, chance = tmp_path_factory.mktemp("evaluation"), random.Random(1)

    def words(n: int) -> str:
        return " ".join(f"w{chance.randrange(1, 512)}" for _ in range(n))

    (made / "words.txt").write_text(words(1000))
    rows = [
        {"asked": words(6), "answers": [words(n) for n in (1, 2, 3)], "right": chance.randrange(3)}
        for _ in range(40)
    ]
    (made / "choice.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {
        "task": "local_choice",
        "dataset_path": "json",
        "dataset_kwargs": {
            "data_files": {"test": str(made / "choice.jsonl")},
            "cache_dir": str(made / "cache"),
        },
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{asked}}",
        "doc_to_choice": "{{answers}}",
        "doc_to_target": "right",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    }
    (made / "choice.yaml").write_text(json.dumps(task))
    return made


@pytest.fixture(scope="module")
def store(folder: Path) -> Path:
    return folder / "records.sqlite"


@pytest.fixture(scope="module")
def tasks(folder: Path) -> list[str]:
    return [f"perplexity:{folder / 'words.txt'}", f"harness:{folder / 'choice.yaml'}"]


@pytest.fixture(scope="module")
def result(tiny_llama: Path, tasks: list[str], store: Path) -> EvaluationResult:
    return evaluate(
        str(tiny_llama),
        tasks,
        ["int4-g32", "fp32"],
        eval_tokens=N_TOKENS,
        context=128,
        stride=64,
        threads=1,
        store=store,
    )


def metrics(record: QualityRecord) -> dict[str, Metric]:
    return {metric.name: metric for metric in record.metrics}


def test_every_path_does_every_task(result: EvaluationResult, tasks: list[str]) -> None:
    assert not result.failures
    assert result.reference == "fp32"
    done = [(record.task, record.path) for record in result.records]
    assert done == [(task, path) for task in tasks for path in ("int4-g32", "fp32")]


def test_records_are_in_the_store(result: EvaluationResult, store: Path) -> None:
    with Store(store) as opened:
        kept = [record for record in opened.records() if isinstance(record, QualityRecord)]
    assert sorted(kept, key=str) == sorted(result.records, key=str)


def test_figures_are_those_of_the_samples(result: EvaluationResult) -> None:
    row, base = result.records[:2]
    nll, base_nll = np.array(row.samples["nll"]), np.array(base.samples["nll"])
    assert len(nll) == N_TOKENS - 1
    found = metrics(row)
    assert found["perplexity"].value == pytest.approx(math.exp(nll.mean()))
    # A word of this tokenizer is one token, the first of which nothing predicts.
    assert found["word_perplexity"].value == pytest.approx(math.exp(nll.mean()))
    difference = found["perplexity"].difference
    assert difference is not None
    assert difference.value == pytest.approx(math.exp(nll.mean()) - math.exp(base_nll.mean()))
    assert metrics(base)["perplexity"].difference is None
    kl = np.array(row.samples["kl"])
    assert found["kl"].value == pytest.approx(kl.mean())
    assert found["kl median"].value == pytest.approx(np.median(kl))
    assert found["top-1"].value == np.mean(row.samples["top1"])
    assert 0 < found["top-1"].value < 1
    assert "kl" not in base.samples


def test_bytes_and_words_are_those_of_the_scored_text(
    result: EvaluationResult, folder: Path
) -> None:
    read = (folder / "words.txt").read_text().split()[:N_TOKENS]
    # All but the first word, each with the blank before it.
    n_bytes = len(" ".join(read)) - len(read[0])
    row = result.records[0]
    assert f"{N_TOKENS - 1} tokens scored, {N_TOKENS - 1} words, {n_bytes} bytes" in row.data
    total = sum(row.samples["nll"])
    bits = metrics(row)["bits_per_byte"].value
    assert bits == pytest.approx(total / math.log(2) / n_bytes)


def test_the_harnesss_figures_keep_their_keys_and_are_paired(result: EvaluationResult) -> None:
    row, base = result.records[2:]
    found, of_base = metrics(row), metrics(base)
    assert set(found) == {"acc,none", "acc_norm,none"}
    for name, metric in found.items():
        own, other = (np.array(r.samples[f"local_choice/{name}"]) for r in (row, base))
        assert metric.n == 40
        assert metric.value == own.mean()
        assert (metric.low, metric.high) == wilson(int(own.sum()), 40)
        assert metric.stderr == pytest.approx(own.std(ddof=1) / math.sqrt(40))
        assert metric.difference is not None
        assert metric.difference.n_gained == int(((own == 1) & (other == 0)).sum())
        assert metric.difference.n_lost == int(((own == 0) & (other == 1)).sum())
        assert of_base[name].difference is None


def test_reports_say_each_figure_and_what_was_counted(result: EvaluationResult) -> None:
    text = quality_report.markdown(result.records)
    for part in ("acc,none", "word_perplexity", "699 tokens scored", "context 128, stride 64"):
        assert part in text
    assert "McNemar" in text
    whole = json.loads(quality_report.json(result.machine, result.records, result.reference))
    assert [QualityRecord.model_validate(r) for r in whole["records"]] == list(result.records)
    lines = quality_report.csv(result.records).splitlines()
    assert len(lines) == 1 + sum(len(record.metrics) for record in result.records)


def test_a_run_reports_nothing_of_it(result: EvaluationResult) -> None:
    from sllmbench.compare.inputs import of_records

    assert of_records(result.records, "test") == []
    assert "QualityRecord" not in report.__all__


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tasks": []}, "no tasks"),
        ({"tasks": ["hellaswag"]}, "unknown task 'hellaswag'; choose of perplexity:TEXT"),
        ({"tasks": ["perplexity"]}, "unknown task 'perplexity'"),
        ({"tasks": ["mmlu:x"]}, "unknown task 'mmlu:x'"),
        ({"tasks": ["social_iqa", "social_iqa"]}, "given twice"),
        ({"tasks": ["perplexity:/nowhere/text.txt"]}, "cannot read the text"),
        ({"tasks": ["harness:/nowhere/task.yaml"]}, "no task file"),
        pytest.param(
            {"tasks": ["harness:no_such_task"]},
            "cannot load no_such_task",
            marks=pytest.mark.slow,  # the harness reads its thousands of tasks
        ),
        ({"paths": ["nonsense"]}, "nonsense"),
        ({"paths": ["fp32", "fp32"]}, "given twice"),
        ({"reference": "bf16"}, "not among the paths"),
        ({"limit": 1}, "at least 2"),
        ({"eval_tokens": 2}, "at least 3"),
        ({"eval_tokens": 5000}, "1000 tokens and 5000 are needed"),
        ({"context": 4096}, "more than the model's 512"),
        ({"context": 64, "stride": 65}, "stride of 65"),
        ({"stride": 0}, "stride of 0"),
        ({"context": 0}, "context of 0"),
        ({"threads": 0}, "at least 1"),
        ({"arithmetic": "int3"}, "unknown arithmetic"),
        ({"model": "random:llama-3.2-1b"}, "quality of random:llama-3.2-1b cannot be measured"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(
    tiny_llama: Path, folder: Path, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    given: dict[str, Any] = {
        "model": str(tiny_llama),
        "tasks": [f"perplexity:{folder / 'words.txt'}"],
        "paths": ["fp32"],
        "eval_tokens": 100,
        "store": tmp_path / "store",
    }
    with pytest.raises(InputError, match=message):
        evaluate(**(given | options))
    with Store(tmp_path / "store") as opened:
        assert opened.records() == []


def test_the_command_writes_what_is_asked_for(
    tiny_llama: Path,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = ["sllmbench", "eval", str(tiny_llama), "-t", "1", "--paths", "fp32"]
    command += ["--tasks", f"perplexity:{folder / 'words.txt'}"]
    command += ["--eval-tokens", "100", "--context", "64", "--store", str(tmp_path / "s")]
    for more, code in ((["-o", "md"], 0), (["--stride", "0"], 2)):
        monkeypatch.setattr(sys, "argv", [*command, *more])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert int(ended.value.code or 0) == code
    captured = capsys.readouterr()
    assert captured.out.startswith("**perplexity:")
    assert "| perplexity | fp32 |" in captured.out
    assert captured.err.splitlines()[-1].startswith("error: a stride of 0")


def test_bytes_of_signs_that_tokens_split_are_counted_once() -> None:
    class Fast:
        """Two tokens for the first sign, as byte-level tokenizers give; blanks left out."""

        is_fast = True

        def __call__(self, text: str, **_: Any) -> dict[str, Any]:
            offsets = [(0, 1), (0, 1), (1, 3), (4, 6), (7, 9)]
            return {"input_ids": [5, 6, 7, 8, 9], "offset_mapping": offsets}

    encoded = EncodedText(Fast(), "Übe ab cd", 5, "text")
    assert encoded.n_bytes is not None
    assert encoded.n_words is not None
    assert encoded.n_bytes.tolist() == [2, 0, 2, 3, 3]
    assert encoded.n_words.tolist() == [1, 0, 0, 1, 1]


def test_without_offsets_words_and_bytes_are_left_out_and_said() -> None:
    class Slow:
        is_fast = False

        def __call__(self, text: str, **_: Any) -> dict[str, Any]:
            return {"input_ids": [5, 6, 7, 8, 9]}

    task = TextTask("t", "t", EncodedText(Slow(), "ab cd", 5, "text"), 8, 8)
    assert [m.name for m in task.metrics({"nll": [1.0, 2.0, 3.0, 2.0]}, None)] == ["perplexity"]
    assert "no figures by word and byte" in task.notes[0]
