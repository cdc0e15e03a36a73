"""The page of `trm ui`: the server of `trm serve` with routes that show a puzzle being solved pass by pass."""
