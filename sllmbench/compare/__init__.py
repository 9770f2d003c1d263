"""Which of two measurements is faster, as far as their samples can tell; what changed over commits.

``inputs`` reads series of runs, ``effects`` turns samples into a ratio with its interval and its
probability by chance, ``identity`` names what makes a comparison unfair, ``verdict`` decides.
"""
