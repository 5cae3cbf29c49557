"""Noise the subsets of every repeat."""

from entrypoints.options import command

main = command("noising", "Noise the subsets of every repeat.")

if __name__ == "__main__":
    main()
