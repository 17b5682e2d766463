"""The version of all three packages; pyproject.toml reads it from here."""

__version__ = "0.1.0"
