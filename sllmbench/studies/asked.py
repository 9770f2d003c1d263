"""What a study is asked for, and which part of it makes each step what it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sllmbench.convert.settings import Settings
from sllmbench.errors import InputError

METHODS = ("gptq", "awq")
TASKS = ("perplexity:owt", "social_iqa", "mmlu", "longcontext")
_AWQ_BITS = 4


@dataclass(frozen=True)
class Asked:
    """The arguments of :func:`~sllmbench.studies.study_sllm`, checked."""

    model: str
    methods: tuple[str, ...]
    bits: int
    group_size: int
    calibration: str
    samples: int
    sequence_length: int
    tasks: tuple[str, ...]
    limit: int | None
    eval_tokens: int
    n_prompt: int
    n_gen: int
    repetitions: int
    threads: int
    arithmetic: str
    seed: int

    def __post_init__(self) -> None:
        """Refuse what no row can be made of.

        Raises:
            InputError: says what.
        """
        for place, method in enumerate(self.methods):
            if method not in METHODS:
                raise InputError(f"unknown method {method!r}; choose of {', '.join(METHODS)}")
            if method in self.methods[:place]:
                raise InputError(f"method {method!r} is given twice")
        if not self.methods:
            raise InputError(f"no methods; choose of {', '.join(METHODS)}")
        if "awq" in self.methods and self.bits != _AWQ_BITS:
            raise InputError(
                f"AWQ's checkpoints hold 4 bits, not {self.bits}; leave it out with --methods gptq"
            )
        for method in self.methods:
            chosen: Any = method
            Settings(chosen, self.bits, self.group_size, sym=method != "awq")

    def quantising(self) -> dict[str, Any]:
        """What makes a checkpoint what it is."""
        names = ("bits", "group_size", "calibration", "samples", "sequence_length", "seed")
        return {name: getattr(self, name) for name in names}

    def timing(self) -> dict[str, Any]:
        """What makes a timing what it is."""
        names = ("n_prompt", "n_gen", "repetitions", "threads", "arithmetic", "seed")
        return {name: getattr(self, name) for name in names}

    def asking(self) -> dict[str, Any]:
        """What makes a figure of quality what it is."""
        names = ("limit", "eval_tokens", "threads", "arithmetic", "seed")
        return {name: getattr(self, name) for name in names}
