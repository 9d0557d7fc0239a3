"""Transforms of samples by their names in Mammoth."""
