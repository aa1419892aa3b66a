"""The built-in demo, its draft (draft/) and held-out text: package data, made by examples/demo_model. README.md is
the model card."""

ABOUT = "a small OpenELM that tells short English stories, and knows nothing else"
PROMPT = "Once upon a time"
