"""Applications of other people, as their documentation sets them up."""
