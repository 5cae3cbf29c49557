"""Step 4: CNNs that start from the chosen filters, against one that starts from random weights."""
