"""ARC-AGI-1, ARC-AGI-2 and ConceptARC."""
