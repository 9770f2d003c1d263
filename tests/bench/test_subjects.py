"""Paths that run models of their own, beside each other in one run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sllmbench.bench import run
from sllmbench.bench.subjects import Subjects
from sllmbench.errors import InputError
from sllmbench.evaluation import evaluate

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture(scope="module")
def other(make_llama: Callable[..., Path]) -> str:
    return str(make_llama(layers=1))


def test_each_path_is_timed_on_its_own_model(tiny_llama: Path, other: str, tmp_path: Path) -> None:
    result = run(
        str(tiny_llama),
        ["fp32", "int8"],
        models={"int8": other},
        n_prompt=8,
        n_gen=2,
        repetitions=1,
        quality=False,
        threads=1,
        store=tmp_path / "s.sqlite",
    )
    float_record, int_record = result.records
    assert (float_record.model, int_record.model) == (str(tiny_llama), other)
    assert int_record.n_params < float_record.n_params
    assert int_record.interleaved_with == ("fp32",)


def test_quality_is_compared_across_models(tiny_llama: Path, other: str, tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text(" ".join(f"w{i * i % 511 + 1}" for i in range(300)))
    result = evaluate(
        str(tiny_llama),
        [f"perplexity:{tmp_path / 'words.txt'}"],
        ["fp32", "bf16"],
        models={"bf16": other},
        eval_tokens=200,
        threads=1,
        store=tmp_path / "s.sqlite",
    )
    assert [r.model for r in result.records] == [str(tiny_llama), other]
    difference = result.records[1].metrics[0].difference
    assert difference is not None
    assert abs(difference.value) > 1


def test_what_cannot_stand_in_one_table_is_refused(tiny_llama: Path, other: str) -> None:
    with pytest.raises(InputError, match="a model is given for bf16, which is not among the paths"):
        Subjects(str(tiny_llama), {"bf16": other}).check_paths(["fp32"])
    with pytest.raises(InputError, match=r"random:qwen2\.5-0\.5b has 151936 tokens and .* 512"):
        Subjects(str(tiny_llama), {"int8": "random:qwen2.5-0.5b"})
