"""From text to ids and back. This package knows no model."""
