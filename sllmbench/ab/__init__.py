"""Two candidates measured in one session, taking turns: sessions differ by more than they do.

``rounds`` tosses the order of each round and decides when there are enough; ``commands`` and
``revisions`` are what can take a turn: a shell command, and a commit's benchmarks under pytest.
``functions`` compares two functions of this process.
"""
