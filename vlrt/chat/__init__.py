"""A conversation in a terminal or over a pipe: what `vlrt chat` is made of."""
