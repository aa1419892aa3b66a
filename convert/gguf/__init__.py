"""GGUF, llama.cpp's format: its files read within bounds, its blocks of few bits, and what its metadata says."""
