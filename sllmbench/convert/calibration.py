"""Calibration: token ids of text that shows a quantiser what a model's layers are given."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sllmbench import assets
from sllmbench.checkpoints.base import Progress, silent
from sllmbench.checkpoints.hf import one_line
from sllmbench.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from sllmbench.checkpoints import Checkpoint

_PACKAGED = {"owt": "openwebtext", "openwebtext": "openwebtext", "wikipedia": "wikipedia"}
_HUB = {
    "wikitext2": "Salesforce/wikitext:wikitext-2-raw-v1",
    "pile": "monology/pile-uncopyrighted",
}
NAMES = "owt, wikipedia, wikitext2, pile, hf:DATASET[:CONFIG][:SPLIT], a .txt or a .jsonl file"
_SPARE = 4
"""Windows to draw from, a sample, where a data set has no end that is worth waiting for."""
_BATCH_CHARACTERS = 1 << 20


@dataclass(frozen=True)
class Calibration:
    """The samples that a quantiser sees.

    Attributes:
        source: what they were drawn from, as the user named it.
        ids: token ids, int64 [samples, sequence_length].
        seed: of the drawing.
    """

    source: str
    ids: NDArray[np.int64]
    seed: int

    @property
    def sha256(self) -> str:
        """Of the token ids."""
        return hashlib.sha256(np.ascontiguousarray(self.ids, "<i8").tobytes()).hexdigest()


def calibrate(
    checkpoint: Checkpoint,
    source: str,
    *,
    samples: int = 64,
    sequence_length: int = 512,
    seed: int = 0,
    progress: Progress = silent,
) -> Calibration:
    """Draw samples of a text.

    The text is tokenised without BOS, its documents joined by an empty line, cut into windows of
    ``sequence_length`` tokens, and ``samples`` of these are drawn without replacement. Of a
    packaged text only the second half is used: quality is measured on the first.

    Args:
        checkpoint: whose tokenizer is used.
        source: as :data:`NAMES` lists them; a JSONL file's lines are strings or objects with a
            ``text``.
        samples: windows to draw.
        sequence_length: tokens a window.
        seed: of the drawing.
        progress: told what is being fetched and tokenised.

    Raises:
        InputError: no such text, one that cannot be read or is too short, no tokenizer, or windows
            that the model has no positions for.
    """
    if samples < 1 or sequence_length < 2:
        raise InputError(
            f"calibration needs at least 1 sample of 2 tokens, not {samples} of {sequence_length}"
        )
    longest = getattr(checkpoint.config().get_text_config(), "max_position_embeddings", None)
    if longest is not None and sequence_length > longest:
        raise InputError(
            f"{checkpoint.name} has positions for {longest} tokens; a sequence length of "
            f"{sequence_length} is too long"
        )
    if checkpoint.quality_unavailable is not None:
        raise InputError(f"no calibration with {checkpoint.name}: {checkpoint.quality_unavailable}")
    texts, endless = _texts(source, progress)
    progress(f"tokenising {source}", None)
    wanted = _SPARE * samples * sequence_length if endless else None
    ids = _tokenise(checkpoint.tokenizer(), texts, wanted)
    windows = len(ids) // sequence_length
    if windows < samples:
        raise InputError(
            f"{source} has {len(ids)} tokens, {windows} windows of {sequence_length}; {samples} "
            "are to be drawn: lower --samples or --sequence-length, or give a longer text"
        )
    drawn = np.random.default_rng(seed).choice(windows, samples, replace=False)
    cut = ids[: windows * sequence_length].reshape(windows, sequence_length)
    return Calibration(source, cut[drawn], seed)


def _tokenise(tokenizer: Any, texts: Iterable[str], wanted: int | None) -> NDArray[np.int64]:
    """The ids of the texts joined by empty lines, at least ``wanted`` of them where that is set."""
    parts: list[NDArray[np.int64]] = [np.empty(0, np.int64)]
    for batch in _batches(texts):
        tokens = tokenizer(batch, add_special_tokens=False, verbose=False)["input_ids"]
        parts.append(np.asarray(tokens, np.int64))
        if wanted is not None and sum(map(len, parts)) >= wanted:
            break
    return np.concatenate(parts)


def _batches(texts: Iterable[str]) -> Iterator[str]:
    """The texts joined by empty lines, about a million characters at a time."""
    held: list[str] = []
    for text in texts:
        held.append(text)
        if sum(map(len, held)) >= _BATCH_CHARACTERS:
            yield "\n\n".join(held)
            held = []
    if held:
        yield "\n\n".join(held)


def _texts(source: str, progress: Progress) -> tuple[Iterable[str], bool]:
    """The documents of a source, and whether there may be more than anyone would read."""
    if source in _PACKAGED:
        whole = assets.text(_PACKAGED[source], progress)
        return [whole[whole.index("\n\n", len(whole) // 2) + 2 :]], False
    if source in _HUB:
        return _hub(_HUB[source], progress), True
    if source.startswith("hf:"):
        return _hub(source.removeprefix("hf:"), progress), True
    if source.endswith(".jsonl"):
        return _json_lines(Path(source), _read(source)), False
    if source.endswith(".txt") or "/" in source:
        return [_read(source)], False
    raise InputError(f"unknown calibration text {source!r}; it is one of {NAMES}")


def _read(source: str) -> str:
    try:
        return Path(source).expanduser().read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot read the text {source}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"the text {source} is not UTF-8; convert it first") from error


def _json_lines(file: Path, content: str) -> list[str]:
    texts = []
    for number, line in enumerate(content.splitlines(), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except ValueError as error:
            raise InputError(f"line {number} of {file} is no JSON: {error}") from error
        text = value.get("text") if isinstance(value, dict) else value
        if not isinstance(text, str):
            raise InputError(
                f"line {number} of {file} is neither a string nor an object with a string `text`"
            )
        texts.append(text)
    return texts


def _hub(name: str, progress: Progress) -> Iterator[str]:
    """The documents of a data set on the Hugging Face hub, streamed as they are asked for."""
    dataset, _, rest = name.partition(":")
    config, _, split = rest.partition(":")
    try:
        import datasets
    except ImportError as error:
        raise InputError(
            f"the data set {dataset} needs the library datasets: pip install 'sllmbench[datasets]'"
        ) from error
    progress(f"opening {dataset} on the Hugging Face hub", None)
    try:
        rows = datasets.load_dataset(
            dataset, config or None, split=split or "train", streaming=True
        )
        for row in rows:
            if not isinstance(row.get("text"), str):
                raise InputError(f"the data set {dataset} has no column of strings `text`")
            if row["text"].strip():
                yield row["text"]
    except InputError:
        raise
    except Exception as error:  # the library and the hub's client have a dozen types between them
        raise InputError(
            f"cannot get the data set {dataset} from the Hugging Face hub: {one_line(error)}; "
            "check the name and the network, or give a text of your own"
        ) from error
