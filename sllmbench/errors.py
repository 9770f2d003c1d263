"""The one error a user is meant to read."""

from __future__ import annotations


class InputError(ValueError):
    """Something the user gave cannot be used; the message is one line saying what and what to do.

    The command line prints the message alone and exits with code 2.
    """
