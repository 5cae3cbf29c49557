"""Train CNNs that start from the chosen filters, against random initialisation."""

from entrypoints.options import command

main = command("warmstart", "Train CNNs that start from the chosen filters, against random initialisation.")

if __name__ == "__main__":
    main()
