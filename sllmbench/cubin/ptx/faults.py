"""What can be wrong with a kernel, or with what is asked of the interpreter."""

from __future__ import annotations


class PtxError(Exception):
    """The base of all of them; the message names the line of PTX where there is one."""


class ParseError(PtxError):
    """The text is not PTX, or it is PTX of a kind that is not read here."""


class UnknownInstructionError(PtxError):
    """The interpreter has no meaning for this instruction, type or modifier."""


class Fault(PtxError):  # noqa: N818
    """The kernel did what no GPU promises to survive: an access out of bounds, a race."""
