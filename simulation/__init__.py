"""THE LABORATORY: many participants on one machine, with the same rounds and the same code."""
