"""Calibration: matrices are rounded so that, on text, their products change least."""
