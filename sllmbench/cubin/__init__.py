"""What a GPU's machine code says before it has run: registers, occupancy, the main loop's cost."""

from sllmbench.cubin.examine import Question, examine

__all__ = ["Question", "examine"]
