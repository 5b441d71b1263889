"""Whole jobs put together from the rooms below: a recipe trained and evaluated, a fine-tune, the speedrun."""
