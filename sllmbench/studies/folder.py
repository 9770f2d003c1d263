"""The folder of a study: its checkpoints, its records, and what of it is finished.

    OUT/gptq, OUT/awq     quantised copies of the model
    OUT/records.sqlite    every record, as it was made
    OUT/study.json        of each step what was asked for, and once it is finished which run it was

A step is finished as a whole or done again, because what it measures is compared within one run.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, ValidationError

from sllmbench.errors import InputError
from sllmbench.record import Conversion, Frozen

if TYPE_CHECKING:
    from collections.abc import Mapping

_MANIFEST = "study.json"
_VERSION = 1


class Step(Frozen):
    """What was asked of a step, and the run that did it; None until it is finished."""

    settings: dict[str, Any]
    run_id: str | None = None


class Manifest(Frozen):
    """What ``study.json`` holds."""

    version: int = _VERSION
    model: str
    steps: dict[str, Step] = Field(default_factory=dict)
    conversions: dict[str, Conversion] = Field(default_factory=dict)


class StudyFolder:
    """A study's folder, made where there is none."""

    def __init__(self, out: str | Path, model: str) -> None:
        """Open the study of ``model`` at ``out``; nothing is written yet.

        Raises:
            InputError: something else stands there, or a study of another model.
        """
        self.path = Path(out).expanduser()
        self._file = self.path / _MANIFEST
        self._manifest = self._read(model)

    @property
    def store(self) -> Path:
        """The file of the records."""
        return self.path / "records.sqlite"

    @property
    def conversions(self) -> Mapping[str, Conversion]:
        """What is known of the checkpoints, by method."""
        return self._manifest.conversions

    def make(self) -> None:
        """Make the folder.

        Raises:
            InputError: it cannot be made or written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot make the folder {self.path}: {error.strerror}") from error
        self._write()

    def checkpoint(self, method: str, settings: Mapping[str, Any]) -> Path | None:
        """Where a method's checkpoint is to be made; None where it stands already.

        Raises:
            InputError: it was made, or begun, with other settings.
        """
        folder = self.path / method
        # Where a conversion keeps the layers that it has finished.
        for made in (folder, self.path / f"{method}.partial"):
            if made.exists():
                self._check_settings(made, method, settings)
        if folder.exists():
            return None
        self._change(steps={method: Step(settings=dict(settings))}, conversions={method: None})
        return folder

    def keep_conversion(self, method: str, conversion: Conversion) -> None:
        """Note what became of a method's checkpoint."""
        self._change(conversions={method: conversion})

    def run_of(self, step: str, settings: Mapping[str, Any]) -> str | None:
        """The run that finished a step with these settings; None where it is to be done."""
        found = self._manifest.steps.get(step)
        return found.run_id if found is not None and found.settings == dict(settings) else None

    def finish(self, step: str, settings: Mapping[str, Any], run_id: str) -> None:
        """Note that a step is finished; its records are in the store."""
        self._change(steps={step: Step(settings=dict(settings), run_id=run_id)})

    def _check_settings(self, made: Path, method: str, settings: Mapping[str, Any]) -> None:
        step = self._manifest.steps.get(method)
        if step is None:
            raise InputError(f"{made} is not of this study; give another OUT")
        changed = [name for name, value in settings.items() if step.settings[name] != value]
        if changed:
            said = ", ".join(f"{n} {step.settings[n]}, now {settings[n]}" for n in changed)
            raise InputError(f"{made} was made with {said}; give another OUT, or delete {made}")

    def _read(self, model: str) -> Manifest:
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"{self.path} is a file; OUT is a folder")
        if not self._file.exists():
            if self.path.exists() and any(self.path.iterdir()):
                raise InputError(
                    f"{self.path} holds other things and no study; give an empty or a new OUT"
                )
            return Manifest(model=model)
        try:
            found = Manifest.model_validate_json(self._file.read_bytes())
        except (OSError, ValidationError) as error:
            raise InputError(
                f"{self._file} is damaged or of another version of sllmbench; give another OUT"
            ) from error
        if found.version != _VERSION or found.model != model:
            raise InputError(f"{self.path} is a study of {found.model}; give another OUT")
        return found

    def _change(
        self,
        steps: Mapping[str, Step] | None = None,
        conversions: Mapping[str, Conversion | None] | None = None,
    ) -> None:
        held = self._manifest
        told = {**held.conversions, **(conversions or {})}
        self._manifest = held.model_copy(
            update={
                "steps": {**held.steps, **(steps or {})},
                "conversions": {method: made for method, made in told.items() if made is not None},
            }
        )
        self._write()

    def _write(self) -> None:
        beside = self._file.with_suffix(".new")
        try:
            beside.write_text(self._manifest.model_dump_json(indent=2) + "\n")
            beside.replace(self._file)
        except OSError as error:
            raise InputError(f"cannot write {self._file}: {error.strerror}") from error
