"""Step 3: how alike the donors' filters and layers are, and which filters are chosen."""
