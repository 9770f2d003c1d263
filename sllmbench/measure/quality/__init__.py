"""How good a model's predictions are, measured as the field does.

One file a subject: perplexity, the divergence from a reference path, multiple choice, key
retrieval over context length, and the tasks of lm-evaluation-harness. ``scoring.py`` is the only
one that runs a model, ``intervals.py`` the only one that says how sure a figure is.
"""
