"""ARC-AGI and ConceptARC."""
