"""The built-in demo, its draft (draft/) and held-out text: package data, made by examples/demo_model. README.md is
the model card."""

ABOUT = "a small OpenELM whose weights are untrained for now, so its text is noise"
PROMPT = "Once upon a time"
