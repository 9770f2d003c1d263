"""``sllmbench quantize`` as a user meets it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from sllmbench.cli import main

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def text(tmp_path: Path) -> Path:
    file = tmp_path / "words.txt"
    file.write_text(" ".join(f"w{i * i % 511 + 1}" for i in range(600)))
    return file


def run(monkeypatch: pytest.MonkeyPatch, capsys: Any, *arguments: object) -> tuple[int, str, str]:
    monkeypatch.setattr("sys.argv", ["sllmbench", "quantize", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr()
    return int(ended.value.code or 0), said.out, said.err


def test_it_says_what_it_made_and_how_far_each_linear_is_off(
    tiny_llama: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    options = ["--group-size", 32, "--samples", 4, "--sequence-length", 16, "--calibration", text]
    code, out, err = run(monkeypatch, capsys, tiny_llama, tmp_path / "out", *options)
    assert code == 0
    assert "gptq, 4 bits, groups of 32, symmetric, true_sequential, damp_percent 0.01" in out
    assert f"{text}, 4 samples of 16 tokens, seed 0" in out
    assert out.count("model.layers.") == 5
    assert "layer 2 of 2, about" in err
    assert "error up to 0." in err
    assert "writing out" in err
    code, out, _ = run(monkeypatch, capsys, tiny_llama, tmp_path / "out", *options, "-o", "json",
                       "--overwrite", "--method", "rtn")  # fmt: skip
    told = json.loads(out)
    assert (code, told["settings"]["method"], told["layers"]) == (0, "rtn", 2)
    errors = [linear["relative_error"] for linear in told["linears"]]
    assert len(errors) == 14
    assert errors == sorted(errors, reverse=True)
    assert all(0.01 < error < 1 for error in errors)
    assert told["stored_bytes"] == sum(f.stat().st_size for f in (tmp_path / "out").iterdir())
    assert told["peak_rss_bytes"] > 50e6


def test_what_stands_there_already_is_one_line_and_code_2(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    code, out, err = run(monkeypatch, capsys, tiny_llama, tmp_path)
    assert (code, out) == (2, "")
    assert err == f"error: {tmp_path} exists already; add --overwrite, or give another OUT\n"
