"""Compare the donors' filters and choose the most alike."""

from entrypoints.options import command

main = command("similarity", "Compare the donors' filters and choose the most alike.")

if __name__ == "__main__":
    main()
