"""Networks: tubelet embedding, positions, transformer blocks, encoder, predictor, probe heads, and JEPA itself."""
