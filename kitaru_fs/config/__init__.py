"""What `kitaru.toml` and `KITARU_*` say."""
