"""What a model attends to: arrays in, arrays out. explorer.py is the way in; draw/ draws it."""
