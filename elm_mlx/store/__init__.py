"""Models on disk: reading and writing their files, and loading a model from them."""
