"""tinyworld: a seeded generator of a small consistent world, of text about it, and of an exam over its facts."""
