"""Pure functions on embeddings, scores and matrices."""
