"""`files/` and git's trees: what changed, byte for byte, and putting a state back."""
