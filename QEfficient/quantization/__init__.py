"""Writes quantised checkpoints that any library loads: rounding, calibration and the layout of compressed-tensors.

Knows checkpoints and Hugging Face models; knows no target, no graph and no package.
"""
