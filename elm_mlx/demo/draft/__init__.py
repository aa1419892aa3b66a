"""The demo's draft, a seventeenth of its size with the same tokenizer: package data, made by examples/demo_model."""
