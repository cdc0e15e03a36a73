"""Operations on a cluster and its storage."""
