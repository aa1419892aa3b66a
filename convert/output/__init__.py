"""What a conversion writes, and how it appears whole or not at all."""
