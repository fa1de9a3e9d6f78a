"""A model that is no more than the recipe asks for: test_recipe.py adds it to a copy of the repository."""
