"""Writes quantised checkpoints that any library loads: rounding, calibration and the layout of compressed-tensors.

Knows checkpoints and Hugging Face models; knows no target, no graph and no package.
"""

from QEfficient.telemetry import turn_off_telemetry

turn_off_telemetry()
