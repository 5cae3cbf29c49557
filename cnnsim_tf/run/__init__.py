"""Finding or making the runs of steps: sessions, repeats, workers, storage, cost."""
