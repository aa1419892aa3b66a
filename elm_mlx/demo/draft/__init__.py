"""The demo's draft model, a ninth of its size with the same tokenizer: package data, made by examples/demo_model."""
