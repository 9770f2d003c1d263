"""The sLLM study with real processes on a tiny model; what is finished is not done again."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from sllmbench import bench, evaluation
from sllmbench.cli import main
from sllmbench.errors import InputError
from sllmbench.store import Store
from sllmbench.studies import StudyResult, study_sllm
from sllmbench.studies.folder import StudyFolder

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow  # it starts a dozen processes

PATHS = ["fp32", "bf16", "gptq", "unfused-gptq", "awq", "unfused-awq"]


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("text") / "words.txt"
    file.write_text(" ".join(f"w{i * i % 511 + 1}" for i in range(600)))
    return file


@pytest.fixture(scope="module")
def asked(words: Path) -> dict[str, Any]:
    return {
        "group_size": 32,
        "calibration": str(words),
        "samples": 2,
        "sequence_length": 16,
        "tasks": [f"perplexity:{words}"],
        "eval_tokens": 100,
        "n_prompt": 4,
        "n_gen": 2,
        "repetitions": 1,
        "threads": 1,
    }


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("study") / "out"


@pytest.fixture(scope="module")
def result(tiny_llama: Path, out: Path, asked: dict[str, Any]) -> StudyResult:
    return study_sllm(str(tiny_llama), out, **asked)


@pytest.fixture
def copy(result: StudyResult, out: Path, tmp_path: Path) -> Path:
    """A finished study of this test's own."""
    return shutil.copytree(out, tmp_path / "copy")


def forbid(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    def called(*_: object, **__: object) -> None:
        raise AssertionError("what is finished was done again")

    places = {"run": bench, "evaluate": evaluation}
    for name in names:
        if name in places:
            monkeypatch.setattr(places[name], name, called)
        else:
            monkeypatch.setattr(f"sllmbench.studies.sllm.{name}", called)


def test_every_row_runs_its_own_weights_and_its_own_kernel(
    result: StudyResult, tiny_llama: Path, out: Path
) -> None:
    assert result.failures == []
    assert [run.path for run in result.speed] == PATHS
    models = {run.path: run.model for run in result.speed}
    assert models["bf16"] == str(tiny_llama)
    assert models["gptq"] == models["unfused-gptq"] == str(out / "gptq")
    assert models["awq"] == models["unfused-awq"] == str(out / "awq")
    kernels = {run.path: {use.kernel for use in run.layer_kernels} for run in result.speed}
    assert "torch expand + torch.linear" in kernels["unfused-gptq"] & kernels["unfused-awq"]
    assert not any("expand" in kernel for kernel in kernels["gptq"] | kernels["awq"])
    sizes = {run.path: run.weights_bytes for run in result.speed}
    assert sizes["gptq"] < sizes["bf16"] < sizes["fp32"]
    assert all(set(run.interleaved_with) == set(PATHS) - {run.path} for run in result.speed)


def test_quality_is_paired_with_the_vanilla_weights(result: StudyResult) -> None:
    assert [record.path for record in result.quality] == PATHS
    by_path = {record.path: record.metrics[0] for record in result.quality}
    assert by_path["fp32"].difference is None
    assert by_path["gptq"].difference is not None
    assert by_path["gptq"].value != by_path["awq"].value
    # The same weights, activations in int8 or in float32.
    assert by_path["gptq"].value == pytest.approx(by_path["unfused-gptq"].value, rel=0.05)


def test_the_study_tells_how_its_weights_were_made(result: StudyResult, words: Path) -> None:
    assert set(result.study.conversions) == {"GPTQ", "AWQ"}
    gptq = result.study.conversions["GPTQ"]
    assert (gptq.settings["bits"], gptq.settings["group_size"]) == (4, 32)
    assert gptq.calibration is not None
    assert gptq.calibration["source"] == str(words)
    assert 0 < gptq.median_error <= gptq.worst_error < 1


def test_what_is_finished_is_not_done_again(
    result: StudyResult, tiny_llama: Path, out: Path, asked: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    forbid(monkeypatch, "run", "evaluate", "quantize_model")
    again = study_sllm(str(tiny_llama), out, **asked)
    assert (again.study, again.speed, again.quality) == (
        result.study,
        result.speed,
        result.quality,
    )


def test_other_settings_measure_anew_only_what_they_change(
    tiny_llama: Path, copy: Path, asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    forbid(monkeypatch, "evaluate", "quantize_model")
    with Store(copy / "records.sqlite") as store:
        before = len(store.records())
    # The checkpoints' folder is in the records, so the copy's are other models to the timing.
    assert study_sllm(str(tiny_llama), copy, **asked).speed[2].model.endswith("out/gptq")
    seen: list[Any] = []
    monkeypatch.setattr(bench, "run", lambda *_, **given: seen.append(given) or _nothing())
    study_sllm(str(tiny_llama), copy, **asked | {"n_gen": 3})
    assert seen[0]["n_gen"] == 3
    with Store(copy / "records.sqlite") as store:
        assert len(store.records()) == before


def _nothing() -> bench.RunResult:
    """A run that a Ctrl-C ended before anything was measured."""
    from sllmbench.origin import RunOrigin

    return bench.RunResult(RunOrigin.begin().machine, (), "fp32", interrupted=True)


def test_an_interrupted_step_is_not_finished(
    tiny_llama: Path, copy: Path, asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "run", lambda *_, **__: _nothing())
    forbid(monkeypatch, "evaluate")
    changed = asked | {"n_prompt": 5}
    stopped = study_sllm(str(tiny_llama), copy, **changed)
    assert stopped.interrupted
    assert stopped.quality == ()
    forbid(monkeypatch, "run")
    with pytest.raises(AssertionError, match="done again"):
        study_sllm(str(tiny_llama), copy, **changed)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"group_size": 16}, r"made with group_size 32, now 16; give another OUT, or delete"),
        ({"methods": ["rtn"]}, "unknown method 'rtn'; choose of gptq, awq"),
        ({"methods": ["awq", "awq"]}, "'awq' is given twice"),
        ({"methods": []}, "no methods"),
        ({"bits": 3}, "AWQ's checkpoints hold 4 bits, not 3; leave it out with --methods gptq"),
        ({"bits": 5, "methods": ["gptq"]}, "no quantiser makes 5 bits"),
        ({"limit": 1}, "a limit of 1 has no interval"),
        ({"tasks": ["nothing"]}, "unknown task 'nothing'"),
        ({"n_gen": 0}, "n_gen must be at least 1"),
        ({"threads": 0}, "threads must be at least 1"),
        ({"arithmetic": "float"}, "unknown arithmetic"),
    ],
)
def test_bad_input_is_refused_before_anything_is_made(
    tiny_llama: Path, copy: Path, asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch,
    change: dict[str, Any], says: str,
) -> None:  # fmt: skip
    forbid(monkeypatch, "run", "evaluate", "quantize_model")
    before = (copy / "study.json").read_bytes()
    with pytest.raises(InputError, match=says):
        study_sllm(str(tiny_llama), copy, **asked | change)
    assert (copy / "study.json").read_bytes() == before


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match="holds other things and no study"):
        StudyFolder(tmp_path, "m")
    with pytest.raises(InputError, match="is a file; OUT is a folder"):
        StudyFolder(tmp_path / "thesis.tex", "m")
    made = StudyFolder(tmp_path / "study", "m")
    made.make()
    with pytest.raises(InputError, match="is a study of m; give another OUT"):
        StudyFolder(tmp_path / "study", "other")
    (tmp_path / "study" / "gptq").mkdir()
    with pytest.raises(InputError, match="gptq is not of this study"):
        StudyFolder(tmp_path / "study", "m").checkpoint("gptq", {})
    (tmp_path / "study" / "study.json").write_text('{"version": 1')
    with pytest.raises(InputError, match="damaged or of another version"):
        StudyFolder(tmp_path / "study", "m")


def test_a_checkpoint_whose_maker_was_killed_at_its_end_is_taken(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path / "study", "m")
    folder.make()
    settings = {"bits": 4}
    place = folder.checkpoint("gptq", settings)
    assert place == tmp_path / "study" / "gptq"
    assert StudyFolder(tmp_path / "study", "m").checkpoint("gptq", settings) == place
    place.mkdir()
    again = StudyFolder(tmp_path / "study", "m")
    assert again.checkpoint("gptq", settings) is None
    assert again.conversions == {}


def test_the_command_prints_the_table_and_one_line_for_bad_input(
    result: StudyResult, tiny_llama: Path, out: Path, asked: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    forbid(monkeypatch, "run", "evaluate", "quantize_model")
    options = {**asked, "tasks": asked["tasks"][0]}
    given = [part for n, v in options.items() for part in (f"--{n.replace('_', '-')}", str(v))]

    def call(*extra: str) -> tuple[int, str, str]:
        arguments = ["sllmbench", "study", "sllm", str(tiny_llama), str(out), *given, *extra]
        monkeypatch.setattr("sys.argv", arguments)
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    code, text, _ = call()
    assert code == 0
    assert "decode: no quantised row is shown to be faster than every vanilla row" in text
    assert "GPTQ unfused" in text
    code, told, _ = call("-o", "json")
    assert code == 0
    assert [row["path"] for row in json.loads(told)["study"]["rows"]] == PATHS
    code, nothing, errors = call("--bits", "3")
    assert (code, nothing) == (2, "")
    assert errors.splitlines()[-1].startswith("error: AWQ's checkpoints hold 4 bits")
