"""`python -m kitaru_fs.bench`: what things cost, each beside its baseline in the same run."""
