"""The model that each path of a measurement runs: one for all, or others for some."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sllmbench.checkpoints import open_checkpoint
from sllmbench.checkpoints.base import Progress, silent
from sllmbench.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sllmbench.checkpoints.base import Checkpoint


@dataclass(frozen=True)
class Subject:
    """A model as records name it: as the user asked for it, and what its weights are."""

    model: str
    provenance: str


class Subjects:
    """The checkpoints of a measurement's paths, each opened once.

    Attributes:
        main: the model that a path runs where no other is said.
    """

    def __init__(
        self, model: str, models: Mapping[str, str] | None = None, progress: Progress = silent
    ) -> None:
        """Open ``model``, and for each path that ``models`` names its own.

        Raises:
            InputError: one cannot be opened, or reads other tokens than ``model`` does.
        """
        self._model, self._models = model, dict(models or {})
        self._opened = {
            name: open_checkpoint(name, progress)
            for name in dict.fromkeys((model, *self._models.values()))
        }
        self.main = self._opened[model]
        tokens = _vocab_size(self.main)
        for name, checkpoint in self._opened.items():
            if _vocab_size(checkpoint) != tokens:
                raise InputError(
                    f"{name} has {_vocab_size(checkpoint)} tokens and {model} {tokens}: they"
                    " cannot read the same text"
                )

    def of(self, path: str) -> Checkpoint:
        """The checkpoint that a path runs."""
        return self._opened[self._models.get(path, self._model)]

    def used(self, paths: Sequence[str]) -> list[Checkpoint]:
        """The checkpoints that these paths run, each once."""
        names = dict.fromkeys(self._models.get(path, self._model) for path in paths)
        return [self._opened[name] for name in names]

    def facts(self, paths: Sequence[str]) -> dict[str, Subject]:
        """What records say of each path's model."""
        return {
            path: Subject(self._models.get(path, self._model), self.of(path).provenance)
            for path in paths
        }

    def check_paths(self, paths: Sequence[str]) -> None:
        """Refuse a model of a path that is not among ``paths``.

        Raises:
            InputError: there is one.
        """
        unused = next((path for path in self._models if path not in paths), None)
        if unused is not None:
            raise InputError(
                f"a model is given for {unused}, which is not among the paths {', '.join(paths)}"
            )


def _vocab_size(checkpoint: Checkpoint) -> int:
    config: Any = checkpoint.config().get_text_config()
    return int(config.vocab_size)
