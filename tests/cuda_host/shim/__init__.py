"""Builds ``csrc/cuda`` for the CPU and multiplies with it: what the tests of the kernels share."""
