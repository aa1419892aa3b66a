"""The built-in demo model: package data, made by examples/untrained_demo.py."""
