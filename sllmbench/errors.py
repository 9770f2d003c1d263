"""The one error a user is meant to read, and what is kept of the others."""

from __future__ import annotations

from dataclasses import dataclass


class InputError(ValueError):
    """Something the user gave cannot be used; the message is one line saying what and what to do.

    The command line prints the message alone and exits with code 2.
    """


@dataclass(frozen=True)
class Failure:
    """Something that went wrong in a run that went on: one line, and what a developer needs."""

    path: str
    message: str
    detail: str
