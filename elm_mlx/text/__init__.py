"""Text to ids and back. This room knows no model."""
