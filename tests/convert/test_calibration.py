"""Calibration texts: which tokens are drawn, and what is said where none can be."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest

from sllmbench import assets
from sllmbench.checkpoints import open_checkpoint
from sllmbench.convert import calibrate
from sllmbench.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    from sllmbench.checkpoints import Checkpoint


@pytest.fixture(scope="module")
def checkpoint(tiny_llama: Path) -> Checkpoint:
    return open_checkpoint(str(tiny_llama))


def test_windows_of_a_file_are_drawn_once_each_and_by_the_seed(
    checkpoint: Checkpoint, words: Path
) -> None:
    drawn = calibrate(checkpoint, str(words), samples=20, sequence_length=50, seed=5)
    ids = [int(word[1:]) for word in words.read_text().split()]
    windows = np.array(ids).reshape(-1, 50)
    places = [int(np.flatnonzero((windows == row).all(1))[0]) for row in drawn.ids]
    assert len(set(places)) == 20
    assert places != sorted(places)
    again = calibrate(checkpoint, str(words), samples=20, sequence_length=50, seed=5)
    other = calibrate(checkpoint, str(words), samples=20, sequence_length=50, seed=6)
    assert again.sha256 == drawn.sha256 != other.sha256


def test_a_packaged_text_gives_the_half_that_quality_is_not_measured_on() -> None:
    checkpoint = open_checkpoint("smollm2-135m")
    whole = assets.text("openwebtext")
    first = checkpoint.tokenizer()(
        whole[: len(whole) // 2], add_special_tokens=False, verbose=False
    )
    scored = np.array(first["input_ids"])
    drawn = calibrate(checkpoint, "owt", samples=64, sequence_length=64)
    heads = {tuple(row[:32]) for row in drawn.ids.tolist()}
    starts = np.lib.stride_tricks.sliding_window_view(scored, 32)
    assert not heads & set(map(tuple, starts.tolist()))


def test_a_json_lines_file_holds_strings_or_objects_with_a_text(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    file = tmp_path / "texts.jsonl"
    lines = [json.dumps("w1 w2 w3"), "", json.dumps({"text": "w4 w5", "url": "w9"})]
    file.write_text("\n".join(lines))
    drawn = calibrate(checkpoint, str(file), samples=1, sequence_length=5)
    assert drawn.ids.tolist() == [[1, 2, 3, 4, 5]]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("absent.txt", None, r"cannot read the text .*absent\.txt: No such file"),
        ("latin.txt", b"w1 \xe9", "is not UTF-8"),
        ("short.txt", b"w1 w2 w3", r"has 3 tokens, 0 windows of 8; 4 are to be drawn"),
        ("bad.jsonl", b'"w1"\n{', r"line 2 of .* is no JSON"),
        ("bad.jsonl", b'{"body": "w1"}', r"line 1 of .* neither a string nor an object"),
    ],
)
def test_a_file_that_cannot_serve_is_refused(
    checkpoint: Checkpoint, tmp_path: Path, name: str, content: bytes | None, says: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=says):
        calibrate(checkpoint, str(tmp_path / name), samples=4, sequence_length=8)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"source": "owl"}, "unknown calibration text 'owl'; it is one of owt,"),
        ({"samples": 0}, "at least 1 sample of 2 tokens, not 0 of 8"),
        ({"sequence_length": 513}, "has positions for 512 tokens; a sequence length of 513"),
    ],
)
def test_settings_that_cannot_be_are_refused(
    checkpoint: Checkpoint, words: Path, options: dict[str, object], says: str
) -> None:
    settings = {"source": str(words), "samples": 2, "sequence_length": 8, **options}
    with pytest.raises(InputError, match=says):
        calibrate(checkpoint, **settings)  # type: ignore[arg-type]


def test_random_weights_have_no_text() -> None:
    with pytest.raises(InputError, match="no calibration with random:qwen2"):
        calibrate(open_checkpoint("random:qwen2.5-0.5b"), "owt")


def test_a_data_set_streams_its_texts(checkpoint: Checkpoint, tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    rows = [{"text": f"w{i} w{i} w{i} w{i}"} for i in range(1, 101)]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    drawn = calibrate(checkpoint, f"hf:{tmp_path}", samples=100, sequence_length=4)
    assert sorted(row[0] for row in drawn.ids) == list(range(1, 101))


def test_a_hub_that_cannot_be_reached_is_one_line(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("datasets")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="cannot get the data set Salesforce/wikitext") as refused:
        calibrate(checkpoint, "wikitext2")
    assert "\n" not in str(refused.value)


def test_without_the_library_a_data_set_says_what_to_install(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match=r"pip install 'sllmbench\[datasets\]'"):
        calibrate(checkpoint, "pile")
