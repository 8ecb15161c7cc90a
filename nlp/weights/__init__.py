"""Where published weight files keep each of our parameters: one file per architecture."""
