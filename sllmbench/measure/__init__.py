"""Measurements of one model in this process: timing, memory, energy and quality.

Nothing is imported here, so that memory and energy can be watched before torch is loaded.
"""
