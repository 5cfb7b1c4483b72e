"""``python -m apq``, which is how ``torchrun -m apq`` starts it."""

from apq.cli import main

if __name__ == "__main__":
    main()
