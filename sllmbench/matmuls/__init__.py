"""Bare matrix products: our kernels and the libraries that they are compared with."""
