"""Run the warm start for one value of a parameter after the other, and compare."""

from entrypoints.options import command

main = command("sweep", "Run the warm start for one value of a parameter after the other, and compare.")

if __name__ == "__main__":
    main()
