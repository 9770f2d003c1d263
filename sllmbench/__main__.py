"""``python -m sllmbench``."""

from sllmbench.cli import main

main()
