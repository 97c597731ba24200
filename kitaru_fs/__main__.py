"""`python -m kitaru_fs` is `kitaru`."""

from kitaru_fs.cli import main

if __name__ == "__main__":
    main()
