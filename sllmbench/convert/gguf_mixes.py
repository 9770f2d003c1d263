"""llama.cpp's mixes: which block type each tensor of a file called, e.g., ``Q4_K_M`` gets.

As ``llama-quantize`` does: the output layer keeps more bits; in the K mixes attention's values, its
output and the feed-forward's second matrix do in some or all layers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sllmbench.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

_FLOATS = ("F32", "F16", "BF16")
_K_FALLBACK = {"Q2_K": "Q4_0", "Q3_K": "Q4_0", "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}
"""What a row that is not in whole blocks of 256 gets. llama.cpp has IQ4_NL for the first two, of
the size of Q4_0."""
_LENGTHS = {True: 256, False: 32}


@dataclass(frozen=True)
class Place:
    """Where a matrix stands in its model.

    Attributes:
        part: its stored name without block number and suffix, e.g. ``ffn_down`` or ``output``.
        layer: its block's number, 0 outside of them.
        layers: blocks of the model.
        sharing: query heads that share a head of keys and values.
        tied: whether the embedding serves as the output layer.
        weighted: whether importances weigh the errors.
    """

    part: str
    layer: int
    layers: int
    sharing: int
    tied: bool
    weighted: bool

    @property
    def is_output(self) -> bool:
        """Whether it makes the logits."""
        return self.part == "output" or (self.tied and self.part == "token_embd")

    @property
    def favoured(self) -> bool:
        """The first and the last eighth of the layers, and every third between."""
        eighth = self.layers // 8
        return (
            self.layer < eighth
            or self.layer >= 7 * self.layers // 8
            or (self.layer - eighth) % 3 == 2
        )

    @property
    def first_eighth(self) -> bool:
        """Whether it stands in the first eighth of the layers."""
        return self.layer < self.layers // 8


def _q2_k(at: Place) -> str:
    if at.part == "attn_v":
        return "Q4_K" if at.sharing >= 4 else "Q3_K"
    return "Q3_K" if at.part in ("ffn_down", "attn_output") else "Q2_K"


def _q3_k_m(at: Place) -> str:
    if at.part == "attn_v":
        return "Q5_K" if at.layer < 2 else "Q4_K"
    if at.part == "ffn_down":
        return "Q5_K" if at.layer < at.layers // 16 else "Q4_K"
    return "Q4_K" if at.part == "attn_output" else "Q3_K"


def _q3_k_l(at: Place) -> str:
    return "Q5_K" if at.part in ("attn_v", "ffn_down", "attn_output") else "Q3_K"


def _q4_k_s(at: Place) -> str:
    if at.part == "attn_v":
        return "Q5_K" if at.layer < 4 else "Q4_K"
    return "Q5_K" if at.part == "ffn_down" and at.first_eighth else "Q4_K"


def _favouring(block_type: str) -> Callable[[Place], str]:
    def choose(at: Place) -> str:
        return "Q6_K" if at.part in ("attn_v", "ffn_down") and at.favoured else block_type

    return choose


def _guarded(block_type: str, better: str) -> Callable[[Place], str]:
    def choose(at: Place) -> str:
        guarded = at.part == "ffn_down" and at.weighted and at.first_eighth
        return better if guarded else block_type

    return choose


def _always(block_type: str) -> Callable[[Place], str]:
    return lambda _: block_type


_MIXES: dict[str, tuple[str, Callable[[Place], str]]] = {
    "F32": ("ALL_F32", _always("F32")),
    "F16": ("MOSTLY_F16", _always("F16")),
    "BF16": ("MOSTLY_BF16", _always("BF16")),
    "Q8_0": ("MOSTLY_Q8_0", _always("Q8_0")),
    "Q4_0": ("MOSTLY_Q4_0", _guarded("Q4_0", "Q4_1")),
    "Q4_1": ("MOSTLY_Q4_1", _always("Q4_1")),
    "Q5_0": ("MOSTLY_Q5_0", _guarded("Q5_0", "Q5_1")),
    "Q5_1": ("MOSTLY_Q5_1", _always("Q5_1")),
    "Q2_K": ("MOSTLY_Q2_K", _q2_k),
    "Q3_K_S": ("MOSTLY_Q3_K_S", _always("Q3_K")),
    "Q3_K_M": ("MOSTLY_Q3_K_M", _q3_k_m),
    "Q3_K_L": ("MOSTLY_Q3_K_L", _q3_k_l),
    "Q4_K_S": ("MOSTLY_Q4_K_S", _q4_k_s),
    "Q4_K_M": ("MOSTLY_Q4_K_M", _favouring("Q4_K")),
    "Q5_K_S": ("MOSTLY_Q5_K_S", _always("Q5_K")),
    "Q5_K_M": ("MOSTLY_Q5_K_M", _favouring("Q5_K")),
    "Q6_K": ("MOSTLY_Q6_K", _always("Q6_K")),
}
"""For each mix ``general.file_type``'s name in the gguf library, and a matrix's block type."""
FILE_TYPES = tuple(_MIXES)


def check_file_type(name: str) -> str:
    """``name`` as GGUF spells it.

    Raises:
        InputError: it is no mix that can be written.
    """
    spelt = name.upper().replace("-", "_")
    if spelt not in _MIXES:
        raise InputError(f"unknown GGUF type {name!r}; the types are {', '.join(FILE_TYPES)}")
    return spelt


def file_type_number(mix: str) -> int:
    """``general.file_type`` of a mix."""
    from gguf import LlamaFileType

    return int(LlamaFileType[_MIXES[mix][0]])


def wanted_type(mix: str, at: Place) -> str:
    """The block type that ``mix`` wants of a matrix."""
    chosen = _MIXES[mix][1](at)
    if at.is_output and chosen not in (*_FLOATS, "Q8_0"):
        return "Q6_K"
    return chosen


def writable_type(wanted: str, k: int, at: Place) -> str:
    """``wanted``, or what takes its place where rows of ``k`` are not in whole blocks of it."""
    if wanted in _FLOATS:
        return wanted
    fitting = wanted
    if k % _LENGTHS[wanted.endswith("_K")]:
        fitting = "Q8_0" if at.is_output else _K_FALLBACK.get(wanted, wanted)
    return "F16" if k % _LENGTHS[fitting.endswith("_K")] else fitting


def part_of(stored: str) -> tuple[str, int]:
    """A stored name's part and block number: ``blk.3.ffn_down.weight`` → ``ffn_down``, 3."""
    match = re.fullmatch(r"(?:blk\.(\d+)\.)?(.+)\.(?:weight|bias)", stored)
    assert match is not None  # stored_name makes no other
    return match[2], int(match[1] or 0)
