"""Faces with other names over the same manager, for programs that were written against them."""
