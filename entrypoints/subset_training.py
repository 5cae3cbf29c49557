"""Train a donor on every noised subset."""

from entrypoints.options import command

main = command("subset_training", "Train a donor on every noised subset.")

if __name__ == "__main__":
    main()
