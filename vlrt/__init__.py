"""vlrt."""
