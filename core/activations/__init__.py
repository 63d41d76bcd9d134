"""Activations of a language model: model and corpus loading, hooks, token packing, shuffle buffer, statistics."""
