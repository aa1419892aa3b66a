"""Token ids in, token ids out. The engine knows no text and no files, and gets its model from the caller."""
