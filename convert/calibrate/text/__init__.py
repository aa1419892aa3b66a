"""The calibration texts that the package ships; README.md says what they are."""
