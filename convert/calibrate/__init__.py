"""Calibration: matrices are rounded so that, on given text, their products change least."""
