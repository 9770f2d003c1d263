"""Two versions against each other in one run, taking turns."""
