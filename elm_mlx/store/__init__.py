"""Models on disk: reading, writing, and putting one together."""
